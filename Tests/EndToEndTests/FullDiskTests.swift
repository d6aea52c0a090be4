import TestKit
import Foundation
import Glibc
import Peers
import Testing

extension EndToEnd {
  /// A filesystem that is really full, segments, index and all: a small one that only the daemon sees, in a mount
  /// namespace of its own, with ballast in it that can be thrown out. A tmpfs, and an ext4 in a file where loop mounts
  /// are allowed.
  @Suite("a full disk", .enabled(if: FullDisk.tmpfs.isPossible, "mounting a tmpfs is not allowed here"))
  struct FullDiskTests {
    let directory: TemporaryDirectory
    let mount: String

    init() throws {
      directory = try TemporaryDirectory()
      mount = directory.file("small")
      try FileManager.default.createDirectory(atPath: mount, withIntermediateDirectories: true)
    }

    @Test("stalls the push, and the push goes on when there is room again")
    func stall() throws { try stall(on: .tmpfs) }

    @Test(
      "stalls the push on ext4, and the push goes on when there is room again",
      .enabled(if: FullDisk.ext4.isPossible, "mounting an ext4 in a file is not allowed here"))
    func stallOnExt4() throws { try stall(on: .ext4) }

    private func stall(on filesystem: FullDisk) throws {
      let source = directory.file("source.raw")
      let image = try PatternedImage(at: source, byteCount: 96 << 20, seed: 0xf0)
      let daemon = try SpillwayDaemon(
        journal: "\(mount)/journal", disks: ["vda=\(image.byteCount),mode=snapshot"], in: directory,
        ["--spool-size", "16M", "--admin", "unix:\(directory.file("admin.sock"))"],
        launcher: filesystem.launcher(mount, mebibytes: 96, left: 16))
      let qemu = try QEMUStorageDaemon(image: source, in: directory)
      try qemu.startBackup(toUnixSocket: daemon.ingestSocket, export: "vda")
      try daemon.waitForStatus("stalled", within: .seconds(120)) { $0.isStalled }
      #expect(!daemon.child.hasEnded(within: .zero))
      #expect(daemon.child.errorLines.filter { $0.contains("disk full") }.count == 1, "it says so, and once")

      #expect(unlink("/proc/\(daemon.child.processID)/root\(mount)/ballast") == 0)
      try qemu.finishBackup()
      #expect(try !daemon.status().isStalled)
      let replayed = directory.file("replayed.raw")
      try Spillway.replay(daemon.journal, "vda", to: replayed)
      try EndToEnd.expectIdentical(source, replayed)
      try daemon.shutDown()
    }

    @Test(
      "is made room on by upkeep alone, once nobody reads what is dead",
      .enabled(if: FullDisk.ext4.isPossible, "mounting an ext4 in a file is not allowed here"))
    func upkeepAlone() throws {
      let daemon = try SpillwayDaemon(
        journal: "\(mount)/journal", disks: ["vda=32M"], in: directory,
        ["--spool-size", "16M", "--admin", "unix:\(directory.file("admin.sock"))"],
        launcher: FullDisk.ext4.launcher(mount, mebibytes: 96, left: 64))
      // As long as another process reads nothing is freed.
      let reader = try ChildProcess(
        "/usr/bin/flock",
        [
          "--shared", "--no-fork", "\(daemon.journal)/readers", "/bin/sh", "-c",
          "echo locked >&2; exec sleep infinity",
        ])
      try reader.waitForErrorLine(containing: "locked", within: .seconds(30))
      let writer = try LibNBD.start(
        """
        for turn in range(6):
            for block in range(512): h.pwrite(random.Random(turn * 512 + block).randbytes(65536), block << 16)
        h.flush()
        for block in range(512):
            assert h.pread(65536, block << 16) == random.Random(5 * 512 + block).randbytes(65536), block
        """, daemon.ingestURI("vda"))
      try daemon.waitForStatus("stalled", within: .seconds(120)) { $0.isStalled }
      #expect(!writer.hasEnded(within: .zero))
      reader.kill()
      try writer.finish(within: .seconds(240)).succeeded()
      #expect(try !daemon.status().isStalled)
      #expect(try Spillway.run(["verify", "-j", daemon.journal]).status == .exited(0))
      try daemon.shutDown()
    }

    @Test(
      "and a kill while it stalls lose nothing acknowledged",
      .enabled(if: FullDisk.ext4.isPossible, "mounting an ext4 in a file is not allowed here"))
    func killWhileStalled() throws {
      func start(_ launcher: [String]) throws -> SpillwayDaemon {
        try SpillwayDaemon(
          journal: "\(mount)/journal", disks: ["vda=256M"], in: directory,
          ["--spool-size", "16M", "--admin", "unix:\(directory.file("admin.sock"))"], launcher: launcher)
      }
      let daemon = try start(FullDisk.ext4.launcher(mount, mebibytes: 96, left: 20))
      let answered = directory.file("answered")
      let writer = try LibNBD.start(
        """
        count = 0
        try:
            while True:
                h.pwrite(random.Random(count).randbytes(65536), count * 65536); count += 1
        except nbd.Error:
            open(uris[1], "w").write(str(count))
        """, daemon.ingestURI("vda"), answered)
      try daemon.waitForStatus("stalled", within: .seconds(120)) { $0.isStalled }
      daemon.kill()
      try writer.finish().succeeded()

      let next = try start(FullDisk.ext4.launcherAgain(mount))
      try LibNBD.run(
        """
        count = int(open(uris[1]).read())
        assert count > 100, count
        for block in range(count):
            assert h.pread(65536, block * 65536) == random.Random(block).randbytes(65536), block
        h.flush()
        """, next.ingestURI("vda"), answered)
      #expect(try !next.status().isStalled)
      try next.shutDown()
    }

    /// A daemon with 16 MiB to fill, and a job that has 96 MiB for it.
    private func startBackup(_ whenFull: String) throws -> (SpillwayDaemon, QEMUStorageDaemon) {
      let source = directory.file("source.raw")
      let image = try PatternedImage(at: source, byteCount: 96 << 20, seed: 0xf1)
      let daemon = try SpillwayDaemon(
        journal: "\(mount)/journal", disks: ["vda=\(image.byteCount),mode=snapshot", "vdb=1M"], in: directory,
        [
          "--spool-size", "16M", "--admin", "unix:\(directory.file("admin.sock"))", "--when-full", whenFull,
          "--stall-budget", "10",
        ],
        launcher: FullDisk.tmpfs.launcher(mount, mebibytes: 96, left: 16))
      let qemu = try QEMUStorageDaemon(image: source, in: directory)
      try qemu.startBackup(toUnixSocket: daemon.ingestSocket, export: "vda")
      return (daemon, qemu)
    }

    @Test("fails the push under --when-full enospc, and takes writes again when there is room")
    func enospc() throws {
      let (daemon, qemu) = try startBackup("enospc")
      #expect(throws: (any Error).self) { try qemu.finishBackup() }
      try LibNBD.run(
        """
        h.flush()
        try:
            for part in range(64): h.pwrite(os.urandom(1 << 20), part << 20)
            raise AssertionError("there is room")
        except nbd.Error as error: assert error.errno == "ENOSPC", error
        h.flush()
        """, daemon.ingestURI("vda"))
      #expect(unlink("/proc/\(daemon.child.processID)/root\(mount)/ballast") == 0)
      try LibNBD.run(
        "h.pwrite(b'x' * (1 << 20), 0); h.flush(); assert h.pread(1, 0) == b'x'", daemon.ingestURI("vdb"))
      try daemon.shutDown()
    }

    @Test("taints what it has to drop under --when-full taint, and the push ends as if nothing were")
    func taint() throws {
      let (daemon, qemu) = try startBackup("taint")
      try qemu.finishBackup()
      let status = try daemon.status()
      #expect(status.disks.map { $0.generations[0].tainted } == [true, false])
      let refused = try Spillway.run(["replay", "-j", daemon.journal, "vda", directory.file("replayed.raw")])
      #expect(refused.status == .exited(1))
      #expect(unlink("/proc/\(daemon.child.processID)/root\(mount)/ballast") == 0)
      try daemon.shutDown()
    }

    @Test("from the start is exit code 1 and one line")
    func fromTheStart() throws {
      let command =
        try FullDisk.tmpfs.launcher(mount, mebibytes: 1, left: 0)
        + [Spillway.path(), "serve", "-j", "\(mount)/journal", "--disk", "vda=1M"]
      let result = try ChildProcess(command[0], Array(command[1...])).finish(within: .seconds(60))
      #expect(result.status == .exited(1))
      #expect(result.errorLines.count == 1, "\(result.errorLines)")
      #expect(result.errorLines.first?.contains("space") == true, "it must say what there is none of")
    }
  }
}
