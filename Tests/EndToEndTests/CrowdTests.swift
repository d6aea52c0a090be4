import TestKit
import Peers
import Testing

extension EndToEnd {
  /// Goal: neither many waiting readers nor a rude one is anything that a writer notices.
  /// Method: thousands of requests wait at once; a reader never takes its answers.
  @Suite("a crowd")
  struct CrowdTests {
    let directory: TemporaryDirectory
    let journal: String

    init() throws {
      directory = try TemporaryDirectory()
      journal = directory.file("journal")
    }

    // A connection's requests are taken in order, so a read that is answered at once shows that all before it
    // are parked.
    @Test("of 2,000 parked reads is answered when the data comes, each with its own", arguments: [1, 50])
    func parkedReads(connections: Int) throws {
      let daemon = try SpillwayDaemon(journal: journal, disks: ["vda=16M"], in: directory)
      try LibNBD.run(
        """
        count = int(uris[2]); random.seed(2000)
        h.pwrite(b"early" + bytes(4091), 0)
        views = [connect(uris[1]) for one in range(count)]
        waiting = []
        for number in range(1, 2001):
            view = views[number % count]; buffer = nbd.Buffer(4096)
            waiting.append((view, buffer, number, view.aio_pread(buffer, number * 4096)))
        for view in views: assert view.pread(4096, 0)[:5] == b"early"
        assert not any(view.aio_command_completed(cookie) for view, buffer, number, cookie in waiting)
        data = {number: random.randbytes(4096) for number in range(1, 2001)}
        tell("parked"); signal.sigwait([signal.SIGUSR1])
        # In any order, some alone and some with their neighbours.
        order = list(range(1, 2001, 4)); random.shuffle(order)
        for first in order:
            if first % 8 == 1:
                h.pwrite(b"".join(data[first + step] for step in range(4)), first * 4096)
            else:
                for step in range(4): h.pwrite(data[first + step], (first + step) * 4096)
        for view, buffer, number, cookie in waiting:
            while not view.aio_command_completed(cookie): assert view.poll(60000) == 1, number
            assert buffer.to_bytearray() == data[number], number
        """, daemon.ingestURI("vda"), daemon.viewURI("vda@live"), "\(connections)", while: "parked"
      ) {
        let parked = try daemon.status().parkedReads
        #expect(parked == 2000)
      }
      let status = try daemon.status()
      #expect(status.parkedReads == 0 && status.waitedReads == 2000)
      try daemon.shutDown()
    }

    // Their answers are hundreds of times what a socket takes: to reads that waited, and to reads of what was there.
    @Test("of readers that do not take their answers holds up neither the writer nor the others")
    func rudeReaders() throws {
      let daemon = try SpillwayDaemon(
        journal: journal, disks: ["vda=96M"], in: directory, ["--spool-size", "16M"])
      try LibNBD.run("h.pwrite(os.urandom(8 << 20), 0)", daemon.ingestURI("vda"))
      let rude = try (0..<3).map { _ in
        try LibNBD.start(
          """
          late = [h.aio_pread(nbd.Buffer(1 << 20), offset << 20) for offset in range(16, 80)]
          h.pread(512, 0)
          early = [h.aio_pread(nbd.Buffer(8 << 20), 0) for again in range(16)]
          tell("waits"); signal.pause()
          """, daemon.viewURI("vda@live"))
      }
      for reader in rude { try reader.waitForErrorLine(containing: "waits", within: .seconds(60)) }
      try LibNBD.run(
        """
        random.seed(64)
        for part in range(64): h.pwrite(random.randbytes(1 << 20), (16 + part) << 20)
        h.flush()
        random.seed(64)
        view = connect(uris[1])
        for part in range(64): assert view.pread(1 << 20, (16 + part) << 20) == random.randbytes(1 << 20), part
        # The payloads on their way out share a budget that two of these take up.
        assert len(view.pread(32 << 20, 16 << 20)) == 32 << 20
        """, daemon.ingestURI("vda"), daemon.viewURI("vda@live"))
      #expect(rude.allSatisfy { !$0.hasEnded(within: .zero) })
      // Nor do they hold up the end.
      try daemon.shutDown()
    }
  }
}
