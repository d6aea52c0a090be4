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
