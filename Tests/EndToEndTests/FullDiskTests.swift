import TestKit
import Foundation
import Glibc
import Peers
import Testing

extension EndToEnd {
  /// A filesystem that is really full: a small tmpfs that only the daemon sees, in a mount namespace of its own,
  /// with ballast in it that can be thrown out.
  @Suite("a full disk", .enabled(if: FullDisk.isPossible, "mounting a tmpfs is not allowed here"))
  struct FullDiskTests {
    let directory: TemporaryDirectory
    let mount: String

    init() throws {
      directory = try TemporaryDirectory()
      mount = directory.file("small")
      try FileManager.default.createDirectory(atPath: mount, withIntermediateDirectories: true)
    }

    @Test("stalls the push, and the push goes on when there is room again")
    func stall() throws {
      let source = directory.file("source.raw")
      let image = try PatternedImage(at: source, byteCount: 96 << 20, seed: 0xf0)
      let daemon = try SpillwayDaemon(
        journal: "\(mount)/journal", disks: ["vda=\(image.byteCount),mode=snapshot"], in: directory,
        ["--spool-size", "16M", "--admin", "unix:\(directory.file("admin.sock"))"],
        launcher: FullDisk.launcher(mount, mebibytes: 96, ballast: 80))
      let qemu = try QEMUStorageDaemon(image: source, in: directory)
      try qemu.startBackup(toUnixSocket: daemon.ingestSocket, export: "vda")
      try daemon.waitForStatus("stalled", within: .seconds(120)) { $0.isStalled }
      #expect(!daemon.child.hasEnded(within: .zero))

      #expect(unlink("/proc/\(daemon.child.processID)/root\(mount)/ballast") == 0)
      try qemu.finishBackup()
      #expect(try !daemon.status().isStalled)
      let replayed = directory.file("replayed.raw")
      try Spillway.replay(daemon.journal, "vda", to: replayed)
      try EndToEnd.expectIdentical(source, replayed)
      try daemon.shutDown()
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
        launcher: FullDisk.launcher(mount, mebibytes: 96, ballast: 80))
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
        try FullDisk.launcher(mount, mebibytes: 1, ballast: 2)
        + [Spillway.path(), "serve", "-j", "\(mount)/journal", "--disk", "vda=1M"]
      let result = try ChildProcess(command[0], Array(command[1...])).finish(within: .seconds(60))
      #expect(result.status == .exited(1))
      #expect(result.errorLines.count == 1, "\(result.errorLines)")
      #expect(result.errorLines.first?.contains("space") == true, "it must say what there is none of")
    }
  }
}

private enum FullDisk {
  /// Whether this user, here, may mount a tmpfs in a namespace of its own: root or not, containers may forbid it.
  static let isPossible: Bool = {
    do {
      let command = try launcher("/mnt", mebibytes: 1, ballast: 0) + ["/bin/true"]
      return try ChildProcess(command[0], Array(command[1...])).finish().status == .exited(0)
    } catch { return false }
  }()

  /// A command line that mounts a tmpfs at `mount`, puts ballast in (as much as fits) and executes what follows.
  static func launcher(_ mount: String, mebibytes: Int, ballast: Int) throws -> [String] {
    let script = """
      mount -t tmpfs -o size=\(mebibytes)m none "$0" || exit 99
      head -c \(ballast)M /dev/zero 2>/dev/null > "$0/ballast"
      exec "$@"
      """
    let asRoot = geteuid() == 0 ? [] : ["--map-root-user"]
    return try [Program.unshare.path()] + asRoot + ["--mount", "/bin/sh", "-c", script, mount]
  }
}
