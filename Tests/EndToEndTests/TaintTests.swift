import TestKit
import Foundation
import Peers
import Testing

extension EndToEnd {
  /// Goal: a stream that contradicts itself is never mistaken for a backup.
  /// Method: libnbd writes one block twice, and everybody who could be deceived is asked.
  @Suite("a second truth for a block of a snapshot")
  struct TaintTests {
    let directory: TemporaryDirectory
    let journal: String

    init() throws {
      directory = try TemporaryDirectory()
      journal = directory.file("journal")
    }

    private func start() throws -> SpillwayDaemon {
      try SpillwayDaemon(journal: journal, disks: ["vda=1M,mode=snapshot"], in: directory)
    }

    private func isTainted() throws -> Bool {
      let status = try Spillway.status(journal)
      return try #require(status.disks.first?.generations.last).tainted
    }

    @Test("is acknowledged, and status, views and replay all say that the generation is tainted")
    func contradiction() throws {
      let daemon = try start()
      try LibNBD.run(
        """
        view = connect(uris[1])
        h.pwrite(b"a" * 65536, 0)
        assert view.pread(65536, 0) == b"a" * 65536
        parked = view.aio_pread(nbd.Buffer(4096), 1 << 19)
        assert view.pread(512, 0) == b"a" * 512
        h.pwrite(b"b" * 4096, 8192)
        while True:
            try:
                if view.aio_command_completed(parked): raise AssertionError("a read of a tainted disk")
                view.poll(-1)
            except nbd.Error as error:
                assert error.errno == "EIO", error
                break
        for offset in [0, 8192, 1 << 19]: expect_error("EIO", lambda: view.pread(4096, offset))
        h.pwrite(b"c" * 4096, 65536)
        h.flush()
        """, daemon.ingestURI("vda"), daemon.viewURI("vda@live"))
      #expect(try isTainted())
      try expectReplayOnlyWhenTold()
      // What was acknowledged as broken stays broken: after a crash, and after an orderly end.
      daemon.kill()
      #expect(try isTainted())
      try expectReplayOnlyWhenTold()
      let next = try start()
      #expect(try isTainted())
      try LibNBD.run("expect_error('EIO', lambda: h.pread(4096, 0))", next.viewURI("vda@live"))
      try next.shutDown()
      #expect(try isTainted())
      try expectReplayOnlyWhenTold()
    }

    // The daemon has no time to do anything but acknowledge.
    @Test("is remembered by a daemon that is killed right after it has acknowledged it")
    func killed() throws {
      let daemon = try start()
      try LibNBD.run(
        "h.pwrite(b'a' * 512, 0); h.pwrite(b'b' * 512, 0); os.kill(int(uris[1]), signal.SIGKILL)",
        daemon.ingestURI("vda"), "\(daemon.child.processID)")
      _ = try daemon.child.finish()
      let next = try start()
      #expect(try isTainted())
      try next.shutDown()
    }

    @Test("is told from a retry, which brings the same bytes")
    func retry() throws {
      let daemon = try start()
      try LibNBD.run(
        """
        h.pwrite(b"a" * 65536 + bytes(65536), 0)
        h.pwrite(b"a" * 4096, 4096)
        h.zero(65536, 65536, nbd.CMD_FLAG_NO_HOLE)
        h.pwrite(b"a" * 4096 + bytes(65536) + b"z" * 4096, 65536 - 4096)
        h.shutdown()
        """, daemon.ingestURI("vda"))
      #expect(try !isTainted())
      try LibNBD.run(
        "assert h.pread(4096, 131072) == b'z' * 4096", daemon.viewURI("vda@live"))
      try daemon.shutDown()
    }

    /// A refusal in one line; told, all that came first for each block.
    private func expectReplayOnlyWhenTold() throws {
      let output = directory.file("output.raw")
      let refused = try Spillway.run(["replay", "-j", journal, "vda", output])
      #expect(refused.status == .exited(1))
      #expect(refused.errorLines.count == 1, "\(refused.errorLines)")
      #expect(refused.errorLines.first?.contains("taint") == true, "\(refused.errorLines)")
      #expect(!FileManager.default.fileExists(atPath: output))

      let told = try Spillway.run(["replay", "-j", journal, "vda", output, "--tainted"])
      #expect(told.status == .exited(0), "\(told.errorLines)")
      let bytes = try #require(FileManager.default.contents(atPath: output))
      #expect(bytes.count == 1 << 20)
      #expect(bytes.prefix(65536) == Data(repeating: UInt8(ascii: "a"), count: 65536), "the first write wins")
      try FileManager.default.removeItem(atPath: output)
    }
  }
}
