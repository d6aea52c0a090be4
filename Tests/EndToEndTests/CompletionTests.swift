import TestKit
import Peers
import Testing

extension EndToEnd {
  /// Goal: a reader never takes what is still to come for what never came, nor waits for what never comes.
  /// Method: streams end in every way there is, and views are asked for a block that was never written.
  @Suite("the end of a stream")
  struct CompletionTests {
    let directory: TemporaryDirectory
    let journal: String

    init() throws {
      directory = try TemporaryDirectory()
      journal = directory.file("journal")
    }

    private func start(_ mode: String = "device", _ more: [String] = []) throws -> SpillwayDaemon {
      try SpillwayDaemon(journal: journal, disks: ["vda=4M,mode=\(mode)"], in: directory, more)
    }

    /// What a view reads where nothing was written: `zeroes`, or an error.
    private func expectAbsent(_ reads: String, _ daemon: SpillwayDaemon) throws {
      let absent =
        reads == "zeroes"
        ? "assert h.pread(4096, 2 << 20) == bytes(4096)"
        : "expect_error('EIO', lambda: h.pread(4096, 2 << 20))"
      // A read that has both is judged as a whole.
      let mixed =
        reads == "zeroes"
        ? "assert h.pread(8192, 65536 - 4096) == b'x' * 4096 + bytes(4096)"
        : "expect_error('EIO', lambda: h.pread(8192, 65536 - 4096))"
      try LibNBD.run(
        """
        assert h.pread(65536, 0) == b"x" * 65536
        \(absent)
        \(mixed)
        """, daemon.viewURI("vda@live"))
    }

    /// That a read of what was never written waits: a later read overtakes it.
    private func expectWait(_ daemon: SpillwayDaemon) throws {
      try LibNBD.run(
        """
        parked = h.aio_pread(nbd.Buffer(4096), 2 << 20)
        assert h.pread(65536, 0) == b"x" * 65536
        assert not h.aio_command_completed(parked)
        """, daemon.viewURI("vda@live"))
    }

    /// Writes the first 64 KiB and ends without a word.
    private func writeAndDie(_ daemon: SpillwayDaemon) throws {
      let writer = try LibNBD.start(
        "h.pwrite(b'x' * 65536, 0); os.kill(os.getpid(), signal.SIGKILL)", daemon.ingestURI("vda"))
      #expect(try writer.finish().status == .killed(signal: 9))
    }

    @Test(
      "is a good-bye after a write: then what never came is zeroes on a device and an error in a snapshot",
      arguments: [("device", "zeroes"), ("snapshot", "error")])
    func goodbye(mode: String, reads: String) throws {
      let daemon = try start(mode)
      try LibNBD.run("h.pwrite(b'x' * 65536, 0); h.shutdown()", daemon.ingestURI("vda"))
      try daemon.waitForStatus("complete") { $0.isComplete("vda") }
      try expectAbsent(reads, daemon)
      // It is known to the next daemon as well, however this one ends.
      daemon.kill()
      let next = try start(mode)
      #expect(try next.status().isComplete("vda"))
      try expectAbsent(reads, next)
      try next.shutDown()
    }

    @Test(
      "is a good-bye after any request that changes or settles something",
      arguments: ["h.zero(4096, 0)", "h.trim(4096, 0)", "h.flush()"])
    func otherRequests(request: String) throws {
      let daemon = try start()
      try LibNBD.run("\(request); h.shutdown()", daemon.ingestURI("vda"))
      try daemon.waitForStatus("complete") { $0.isComplete("vda") }
      try daemon.shutDown()
    }

    @Test(
      "is not the good-bye of a client that only looked",
      arguments: [
        "nbdinfo", "h.pread(4096, 0)",
        "h.block_status(1 << 20, 0, lambda *all: 0) if h.can_meta_context('base:allocation') else 0",
      ])
    func onlyLooked(request: String) throws {
      let daemon = try start()
      try writeAndDie(daemon)
      if request == "nbdinfo" {
        try Program.nbdinfo.run([daemon.ingestURI("vda")])
        try Program.nbdinfo.run(["--map", daemon.ingestURI("vda")])
      } else {
        try LibNBD.run("\(request); h.shutdown()", daemon.ingestURI("vda"))
      }
      // A session that has come and gone after it shows that the good-bye has been dealt with.
      try expectWait(daemon)
      #expect(try !daemon.status().isComplete("vda"))
      try daemon.shutDown()
    }

    @Test("is not the death of the client, and the next client goes on and ends it")
    func death() throws {
      let daemon = try start("snapshot")
      try writeAndDie(daemon)
      // A new connection is let in only when the dead one is dealt with.
      try LibNBD.run("h.shutdown()", daemon.ingestURI("vda"))
      #expect(try !daemon.status().isComplete("vda"))
      try expectWait(daemon)

      try LibNBD.run("h.pwrite(b'x' * 65536, 0); h.shutdown()", daemon.ingestURI("vda"))
      try daemon.waitForStatus("complete") { $0.isComplete("vda") }
      try expectAbsent("error", daemon)
      try daemon.shutDown()
    }

    @Test("is the last good-bye when several connections write")
    func several() throws {
      let daemon = try start()
      try LibNBD.run(
        """
        first = connect(uris[0]); second = connect(uris[0]); idle = connect(uris[0])
        first.pwrite(b"x" * 32768, 0); second.pwrite(b"x" * 32768, 32768)
        first.shutdown()
        # The daemon lets this one in only after it has dealt with the one that has gone.
        third = connect(uris[0])
        view = connect(uris[1])
        buffer = nbd.Buffer(4096)
        parked = view.aio_pread(buffer, 2 << 20)
        assert view.pread(65536, 0) == b"x" * 65536
        assert not view.aio_command_completed(parked)
        second.shutdown()
        while not view.aio_command_completed(parked): view.poll(-1)
        assert buffer.to_bytearray() == bytes(4096)
        """, daemon.ingestURI("vda"), daemon.viewURI("vda@live"))
      #expect(try daemon.status().isComplete("vda"))
      try daemon.shutDown()
    }

    @Test(
      "is what ctl complete says, and settles whoever waits",
      arguments: [("device", "zeroes"), ("snapshot", "error")])
    func told(mode: String, reads: String) throws {
      let daemon = try start(mode)
      let settled =
        reads == "zeroes"
        ? "assert h.pread(4096, 2 << 20) == bytes(4096)"
        : """
        expect_error("EIO", lambda: h.pread(4096, 2 << 20))
        """
      let reader = try LibNBD.start(settled, daemon.viewURI("vda@live"))
      try daemon.waitForStatus("waited the read") { $0.parkedReads == 1 }
      try writeAndDie(daemon)
      try daemon.control("complete", "vda")
      try reader.finish().succeeded()
      #expect(try daemon.status().isComplete("vda"))
      try expectAbsent(reads, daemon)
      let unknown = try Spillway.run(["ctl", "-j", journal, "complete", "vdb"])
      #expect(unknown.status == .exited(2))
      #expect(unknown.errorLines.count == 1)
      try daemon.shutDown()
    }

    @Test(
      "reads as --after-complete says, whatever the mode",
      arguments: [("device", "error"), ("snapshot", "zeroes")])
    func afterComplete(mode: String, reads: String) throws {
      let daemon = try start(mode, ["--after-complete", reads])
      try LibNBD.run("h.pwrite(b'x' * 65536, 0); h.shutdown()", daemon.ingestURI("vda"))
      try daemon.waitForStatus("complete") { $0.isComplete("vda") }
      try expectAbsent(reads, daemon)
      try daemon.shutDown()
    }

    @Test("is not waited for with --unarrived", arguments: ["zeroes", "error"])
    func unarrived(reads: String) throws {
      let daemon = try start("snapshot", ["--unarrived", reads])
      let writer = try LibNBD.start(
        "h.pwrite(b'x' * 65536, 0); tell('written'); signal.pause()", daemon.ingestURI("vda"))
      try writer.waitForErrorLine(containing: "written", within: .seconds(60))
      try expectAbsent(reads, daemon)
      #expect(try daemon.status().waitedReads == 0)
      // What comes later is there then; what has not come stays "data", so that no copying tool skips it.
      try LibNBD.run(
        """
        h.pwrite(b"y" * 4096, 2 << 20)
        view = nbd.NBD(); view.add_meta_context("base:allocation"); view.connect_uri(uris[1])
        assert view.pread(4096, 2 << 20) == b"y" * 4096
        flags = []
        view.block_status(4 << 20, 0, lambda context, offset, entries, error: flags.extend(entries[1::2]))
        assert flags == [0], flags
        """, daemon.ingestURI("vda"), daemon.viewURI("vda@live"))
      try daemon.shutDown()
    }

    @Test("need not be waited for longer than --read-timeout")
    func readTimeout() throws {
      let daemon = try start("device", ["--read-timeout", "1"])
      try LibNBD.run(
        """
        view = connect(uris[1])
        arrives, late = nbd.Buffer(4096), nbd.Buffer(4096)
        first = view.aio_pread(arrives, 0)
        second = view.aio_pread(late, 2 << 20)
        h.pwrite(b"x" * 65536, 0)
        while not view.aio_command_completed(first): view.poll(-1)
        assert arrives.to_bytearray() == b"x" * 4096
        def finish():
            while not view.aio_command_completed(second): view.poll(-1)
        expect_error("EIO", finish)
        assert view.pread(4096, 0) == b"x" * 4096
        """, daemon.ingestURI("vda"), daemon.viewURI("vda@live"))
      #expect(try daemon.status().parkedReads == 0)
      try daemon.shutDown()
    }
  }
}
