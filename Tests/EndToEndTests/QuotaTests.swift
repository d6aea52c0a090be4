import Foundation
import Peers
import TestKit
import Testing

extension EndToEnd {
  /// Goal: a journal with a quota never takes more on disk, whoever pushes, and a release makes room for the rest.
  /// Method: qemu pushes twice what the quota holds; `du` after each step, a reader of what has not come, and a release.
  @Suite("a quota")
  struct QuotaTests {
    let directory: TemporaryDirectory
    let journal: String

    private static let quota: UInt64 = 64 << 20
    private static let byteCount: UInt64 = 128 << 20

    init() throws {
      directory = try TemporaryDirectory()
      journal = directory.file("journal")
    }

    /// What the quota counts.
    private var takenBytes: UInt64 {
      DiskUsage.bytes(of: journal + "/segments") + DiskUsage.bytes(of: journal + "/index")
    }

    @Test("stalls the push, fails its readers with ENOSPC, and lets it go on after a release")
    func stallAndRelease() throws {
      let source = directory.file("source.raw")
      try ChildProcess("/bin/sh", ["-c", "head -c \(Self.byteCount) /dev/urandom > '\(source)'"])
        .finish(within: .seconds(60)).succeeded()
      let daemon = try SpillwayDaemon(
        journal: journal, disks: ["vda=\(Self.byteCount),mode=snapshot"], in: directory,
        ["--quota", "64M", "--spool-size", "16M"])
      let qemu = try QEMUStorageDaemon(image: source, in: directory)
      try qemu.startBackup(toUnixSocket: daemon.ingestSocket, export: "vda")
      try daemon.waitForStatus("stalled", within: .seconds(120)) { $0.isStalled }
      #expect(takenBytes <= Self.quota && takenBytes > Self.quota / 2, "\(takenBytes)")
      let last = Self.byteCount - 65536
      try LibNBD.run("expect_error('ENOSPC', lambda: h.pread(65536, \(last)))", daemon.viewURI("vda@live"))
      let text = try Spillway.run(["status", "-j", journal]).succeeded().outputText
      #expect(text.contains("quota 64 MiB") && text.contains("stalled"), "\(text)")

      try daemon.control("release", "vda", "0", "96M")
      try Spillway.run(["compact", "-j", journal]).succeeded()
      try qemu.finishBackup()
      try daemon.control("flush")
      #expect(takenBytes <= Self.quota, "\(takenBytes)")
      #expect(try !daemon.status().isStalled)
      try LibNBD.run(
        """
        expect_error("EPERM", lambda: h.pread(512, 0))
        with open(uris[1], "rb") as source:
            source.seek(\(last))
            assert h.pread(65536, \(last)) == source.read(65536)
        """, daemon.viewURI("vda@live"), source)
      #expect(try Spillway.run(["verify", "-j", journal]).status == .exited(0))
      try daemon.shutDown()
      #expect(takenBytes <= Self.quota, "\(takenBytes)")
    }
  }
}
