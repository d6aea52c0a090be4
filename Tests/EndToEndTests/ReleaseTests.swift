import Foundation
import Peers
import TestKit
import Testing

extension EndToEnd {
  /// Goal: a reader says over NBD, or by `ctl`, what it needs no more, and nobody reads that again.
  /// Method: libnbd writes and reads a small disk served with each of the options; sfdisk makes partitions.
  @Suite("releases")
  struct ReleaseTests {
    let directory: TemporaryDirectory
    let journal: String

    init() throws {
      directory = try TemporaryDirectory()
      journal = directory.file("journal")
    }

    @Test("--allow-release: a view takes TRIM and no other change, and what was trimmed is gone")
    func allowRelease() throws {
      let daemon = try SpillwayDaemon(
        journal: journal, disks: ["vda=1M,mode=snapshot"], in: directory, ["--allow-release"])
      try LibNBD.run(
        """
        w = connect(uris[1])
        w.pwrite(b'a' * 0x100000, 0)
        assert not h.is_read_only() and h.can_trim() and not h.can_zero()
        h.set_strict_mode(0)
        expect_error("EPERM", lambda: h.pwrite(b"b" * 512, 0))
        expect_error("EPERM", lambda: h.zero(512, 0))
        h.trim(65536, 65536)
        h.flush()
        expect_error("EPERM", lambda: h.pread(4096, 65536))
        expect_error("EPERM", lambda: h.pread(131072, 0))
        assert h.pread(65536, 0) == b'a' * 65536 and h.pread(4096, 131072) == b'a' * 4096
        w.pwrite(b'a' * 131072, 0)
        expect_error("EPERM", lambda: h.pread(4096, 65536))
        """, daemon.viewURI("vda@live"), daemon.ingestURI("vda"))
      try daemon.control("release", "vda", "512K", "64K")
      try LibNBD.run(
        "expect_error('EPERM', lambda: h.pread(512, 524288)); h.pread(512, 524288 + 65536)",
        daemon.viewURI("vda@live"))
      try daemon.control("seal", "vda", "monday")
      try daemon.control("release", "vda@monday", "0", "512")
      try LibNBD.run("expect_error('EPERM', lambda: h.pread(512, 0))", daemon.viewURI("vda@monday"))
      for wrong in [["vda", "0", "100"], ["vda", "1M", "512"], ["vda", "0"], ["vdb", "0", "512"]] {
        let answer = try Spillway.run(["ctl", "-j", journal, "release"] + wrong)
        #expect(answer.status == .exited(2), "\(wrong)")
      }
      let verified = try Spillway.run(["verify", "-j", journal])
      #expect(verified.status == .exited(0))
      try daemon.shutDown()
      let replayed = try Spillway.run(["replay", "-j", journal, "vda@monday", directory.file("out")])
      #expect(replayed.status == .exited(1) && replayed.errorLines.first?.contains("released") == true)
    }

    @Test("without --allow-release a view is read-only")
    func readOnly() throws {
      let daemon = try SpillwayDaemon(journal: journal, disks: ["vda=1M"], in: directory)
      try LibNBD.run("assert h.is_read_only() and not h.can_trim()", daemon.viewURI("vda@live"))
    }

    @Test("--read-once: what was read and answered cannot be read again")
    func readOnce() throws {
      let daemon = try SpillwayDaemon(
        journal: journal, disks: ["vda=1M,mode=snapshot"], in: directory, ["--read-once"])
      try LibNBD.run(
        """
        w = connect(uris[1])
        w.pwrite(b'a' * 0x100000, 0)
        assert h.is_read_only()
        assert h.pread(65536, 0) == b'a' * 65536
        # The release follows the reply: a request behind it on the same connection finds it.
        expect_error("EPERM", lambda: h.pread(65536, 0))
        assert h.pread(700, 131072) == b'a' * 700
        assert h.pread(324, 131072 + 700) == b'a' * 324
        expect_error("EPERM", lambda: h.pread(512, 131072))
        assert h.pread(512, 131072 + 512) == b'a' * 512
        """, daemon.viewURI("vda@live"), daemon.ingestURI("vda"))
    }

    @Test(
      "--keep-only ranges: what comes elsewhere is dropped, in the first generation and in the next",
      arguments: ["device", "snapshot"])
    func keepRanges(mode: String) throws {
      let daemon = try SpillwayDaemon(
        journal: journal, disks: ["vda=1M,mode=\(mode)"], in: directory,
        ["--keep-only", "vda=64K-128K,512K-1M"])
      let check = """
        w = connect(uris[1])
        w.pwrite(b'a' * 0x100000, 0)
        expect_error("EPERM", lambda: h.pread(512, 0))
        expect_error("EPERM", lambda: h.pread(512, 131072))
        assert h.pread(65536, 65536) == b'a' * 65536 and h.pread(524288, 524288) == b'a' * 524288
        """
      try LibNBD.run(check, daemon.viewURI("vda@live"), daemon.ingestURI("vda"))
      guard mode == "snapshot" else { return }
      try daemon.control("seal", "vda", "monday")
      try daemon.control("begin", "vda", "tuesday")
      try LibNBD.run(check, daemon.viewURI("vda@tuesday"), daemon.ingestURI("vda"))
    }

    @Test(
      "--keep-only partitions: the rest is released when the disk's table has arrived",
      arguments: ["dos", "gpt"])
    func keepPartitions(label: String) throws {
      let image = directory.file("disk.raw")
      #expect(FileManager.default.createFile(atPath: image, contents: nil))
      try FileHandle(forWritingTo: URL(fileURLWithPath: image)).truncate(atOffset: 32 << 20)
      let table = directory.file("table")
      try "label: \(label)\nstart=4096, size=8192\nstart=20480, size=8192\n"
        .write(toFile: table, atomically: true, encoding: .utf8)
      try ChildProcess("/bin/sh", ["-c", "/sbin/sfdisk -q '\(image)' < '\(table)'"])
        .finish(within: .seconds(60)).succeeded()
      let daemon = try SpillwayDaemon(
        journal: journal, disks: ["vda=32M,mode=snapshot"], in: directory, ["--keep-only", "vda=part:2"])
      // What lies in the first partition arrives before the table, and goes with its arrival.
      try LibNBD.run(
        """
        image = open("\(image)", "rb").read()
        w = connect(uris[1])
        w.pwrite(b'a' * 65536, 4096 * 512)
        assert h.pread(65536, 4096 * 512) == b'a' * 65536
        for offset in list(range(0, 1 << 20, 65536)) + list(range(31 << 20, 32 << 20, 65536)):
            w.pwrite(image[offset:offset + 65536], offset)
        w.pwrite(b'b' * 65536, 20480 * 512)
        while True:
            try: h.pread(65536, 4096 * 512)
            except nbd.Error as error:
                assert error.errno == "EPERM", error
                break
        assert h.pread(65536, 20480 * 512) == b'b' * 65536
        assert h.pread(1 << 20, 0) == image[:1 << 20] and h.pread(1 << 20, 31 << 20) == image[31 << 20:]
        expect_error("EPERM", lambda: h.pread(512, 19 << 20))
        """, daemon.viewURI("vda@live"), daemon.ingestURI("vda"))
    }

    @Test(
      "what cannot be kept is a usage error",
      arguments: ["vdb=0-1M", "vda=0-2M", "vda=1", "vda=0-64K --keep-only vda=0-64K"])
    func wrong(_ value: String) throws {
      let answer = try Spillway.run(
        ["serve", "-j", journal, "--disk", "vda=1M", "--keep-only"]
          + value.split(separator: " ").map(String.init))
      #expect(answer.status == .exited(2))
    }
  }
}
