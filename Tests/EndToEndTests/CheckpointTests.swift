import Foundation
import Glibc
import Peers
import TestKit
import Testing

extension EndToEnd {
  /// Goal: whoever uses a disk over NBD keeps states of it with `ctl seal`, without stopping, and has each of them back, byte for
  /// byte, whatever ends the daemon.
  /// Method: libnbd writes through one connection over several seals, and tells what the disk holds; replays are compared with
  /// that. A client that never stops shows that each is one moment. The daemon kills itself at each step of a seal.
  @Suite("checkpoints")
  struct CheckpointTests {
    let directory: TemporaryDirectory
    let journal: String
    let seed = EndToEnd.seed()

    init() throws {
      directory = try TemporaryDirectory()
      journal = directory.file("journal")
    }

    private func start(_ size: String, _ environment: [String: String] = [:]) throws -> SpillwayDaemon {
      try SpillwayDaemon(
        journal: journal, disks: ["vda=\(size)"], in: directory, ["--spool-size", "16M"],
        environment: environment)
    }

    private func run(_ arguments: String...) throws -> FinishedProcess {
      try Spillway.run([arguments[0], "-j", journal] + arguments.dropFirst(), within: .seconds(60))
    }

    private func replayed(_ name: String) throws -> String {
      let output = directory.file("\(name).raw")
      try Spillway.run(["replay", "-j", journal, name, output, "--force"]).succeeded()
      return output
    }

    private func holds(_ name: String, _ content: Data) throws -> Bool {
      try FileManager.default.contents(atPath: replayed(name)) == content
    }

    private func states() throws -> [String] {
      struct Answer: Decodable {
        struct Disk: Decodable {
          struct Generation: Decodable {
            var name: String?
            var state: String
          }
          var generations: [Generation]
        }
        var disks: [Disk]
      }
      let answer = try JSONDecoder().decode(Answer.self, from: Data(run("status", "--json").output))
      return answer.disks[0].generations.map { "\($0.name ?? "-") \($0.state)" }
    }

    // Writes, zeroes and trims at any byte, and keeps what the disk holds; each round ends when a checkpoint was sealed.
    private static let rounds = """
      signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
      folder, seed = uris[1], int(uris[2]); rounds = [int(word) for word in uris[3:]]
      random.seed(seed * 100 + rounds[0]); size = 8 << 20
      disk = bytearray(h.pread(size, 0))
      if rounds[0] > 0: assert bytes(disk) == open(folder + "/model", "rb").read()
      else: assert not any(disk)
      for turn in rounds:
          for _ in range(60):
              start = random.randrange(size); count = min(size - start, random.choice([1, 511, 512, 4096, 70000, 1 << 20]))
              kind = random.randrange(6)
              if kind == 0: h.zero(count, start); disk[start:start + count] = bytes(count)
              elif kind == 1:
                  h.trim(count, start); first = -(-start // 512) * 512; end = (start + count) // 512 * 512
                  if end > first: disk[first:end] = bytes(end - first)
              else:
                  data = random.randbytes(count) if kind < 4 else bytes([turn + 1]) * count
                  h.pwrite(data, start); disk[start:start + count] = data
          assert bytes(h.pread(size, 0)) == bytes(disk)
          for name in ["c%d" % turn, "model"]: open(folder + "/" + name, "wb").write(disk)
          tell("round %d." % turn)
          signal.sigwait([signal.SIGUSR1])
      """

    @Test("one connection goes on over many of them, each is what the disk was, and a kill changes nothing")
    func rounds() throws {
      print("checkpoints: seed \(seed)")
      func play(_ rounds: [Int], on daemon: SpillwayDaemon) throws {
        let client = try Program.python.start(
          ["-c", LibNBD.script(Self.rounds), daemon.ingestURI("vda"), directory.path, "\(seed)"]
            + rounds.map { "\($0)" })
        for turn in rounds {
          try client.waitForErrorLine(containing: "round \(turn).", within: .seconds(120))
          try daemon.control("seal", "vda", "c\(turn)")
          try EndToEnd.expectIdentical(directory.file("c\(turn)"), replayed("vda@c\(turn)"))
          client.send(SIGUSR1)
        }
        try client.finish(within: .seconds(120)).succeeded()
      }
      let daemon = try start("8M")
      try play(Array(0..<5), on: daemon)
      #expect(try run("ctl", "seal", "vda", "c2").status == .exited(2), "the name is taken")
      #expect(try run("ctl", "begin", "vda", "c9").status == .exited(2), "a device disk begins none")
      daemon.kill()
      let next = try start("8M")
      try play(Array(5..<12), on: next)
      try next.control("drop", "vda@c1")
      try next.control("drop", "vda@c6")
      let left = [0, 2, 3, 4, 5, 7, 8, 9, 10, 11]
      #expect(try states() == left.map { "c\($0) sealed" } + ["- arriving"])
      // Views of them, and what changed in one: a client needs only that of the next one.
      try LibNBD.run(
        """
        size = 8 << 20
        for uri, file in [(uris[0], uris[2]), (uris[1], uris[3])]:
            assert bytes(connect(uri).pread(size, 0)) == open(file, "rb").read()
        h = nbd.NBD(); h.add_meta_context("qemu:dirty-bitmap:c8"); h.connect_uri(uris[1])
        older = bytearray(open(uris[2], "rb").read()); newer = open(uris[3], "rb").read()
        dirty = []; at = 0
        def note(context, offset, entries, error):
            global at
            for length, flags in zip(entries[0::2], entries[1::2]):
                dirty.append((offset, length, flags)); offset += length
            at = offset
        while at < size: h.block_status(size - at, at, note)
        for offset, length, flags in dirty:
            if flags & 1: older[offset:offset + length] = newer[offset:offset + length]
        assert bytes(older) == newer and any(not flags & 1 for _, _, flags in dirty)
        """, next.viewURI("vda@c7"), next.viewURI("vda@c8"), directory.file("c7"), directory.file("c8"))
      #expect(try run("verify").status == .exited(0), "beside the daemon")
      next.kill()
      for turn in left { try EndToEnd.expectIdentical(directory.file("c\(turn)"), replayed("vda@c\(turn)")) }
      try EndToEnd.expectIdentical(directory.file("model"), replayed("vda"))
      #expect(try run("verify", "--rebuild-index").status == .exited(0))
      for turn in left { try EndToEnd.expectIdentical(directory.file("c\(turn)"), replayed("vda@c\(turn)")) }
      #expect(try run("compact").status == .exited(0))
      try EndToEnd.expectIdentical(directory.file("c0"), replayed("vda@c0"))
    }

    private static let blockBytes = 16 << 10
    private static let blockCount = 64

    @Test("sealed while a client never stops, each is one moment, and nobody waits")
    func moments() throws {
      let daemon = try start("\(Self.blockBytes * Self.blockCount)")
      let writer = try LibNBD.start(
        """
        for turn in range(1, 1000000):
            for block in range(64): h.pwrite(turn.to_bytes(4, "big") * (4 << 10), block << 14)
            if turn % 10 == 0: tell("round %d." % turn)
        """, daemon.ingestURI("vda"))
      var last = 0
      for index in 0..<8 {
        try writer.waitForErrorLine(containing: "round \(10 * (index + 1)).", within: .seconds(120))
        let acknowledged = Self.lastRound(writer)
        try daemon.control("seal", "vda", "m\(index)")
        let round = try expectMoment("vda@m\(index)")
        #expect(round >= acknowledged && round >= last)
        last = round
      }
      daemon.kill()
      _ = try writer.finish()
      #expect(try expectMoment("vda") >= Self.lastRound(writer))
      #expect(try expectMoment("vda@m7") == last)
      #expect(try run("verify").status == .exited(0))
    }

    private static func lastRound(_ writer: ChildProcess) -> Int {
      writer.errorLines.compactMap { line in
        line.wholeMatch(of: /round (\d+)\./).flatMap { Int($0.output.1) }
      }.last ?? 0
    }

    /// Expects some blocks of round n + 1 and after them those of n; returns n.
    private func expectMoment(_ name: String) throws -> Int {
      let bytes = try #require(FileManager.default.contents(atPath: replayed(name)))
      let rounds = (0..<Self.blockCount).map { block -> Int in
        let content = bytes[block * Self.blockBytes..<(block + 1) * Self.blockBytes]
        let isWhole = content.dropFirst(4) == content.dropLast(4)
        #expect(isWhole, "block \(block) of \(name) is of two moments")
        return content.prefix(4).reduce(0) { $0 << 8 | Int($1) }
      }
      let (first, last) = (rounds[0], rounds[rounds.count - 1])
      #expect(first - last <= 1 && rounds == rounds.sorted(by: >), "\(name) is no moment: \(rounds)")
      return last
    }

    // Two records make the disk and five are written; then begin, base, bitmap whole and, when it was summed up, the seal.
    private static let stages = [
      "recordFilled:8", "recordTrue:8", "recordTrue:9", "recordTrue:10", "checkpointOpened",
      "checkpointSummed",
      "recordTrue:11", "generationSealed",
    ]

    @Test(
      "a daemon that is killed at a step of a seal leaves the disk whole, and the checkpoint or none",
      arguments: stages)
    func killed(stage: String) throws {
      try kill(at: stage)
      let daemon = try start("1M")
      let found = try states()
      switch stage {
      case "recordFilled:8": #expect(found == ["- arriving"])
      case "recordTrue:11", "generationSealed": #expect(found == ["first sealed", "- arriving"])
      default: #expect(found == ["- arriving"], "what was not sealed is hidden")
      }
      try LibNBD.run(
        Self.compare + "h.pwrite(b'new', 65535); h.trim(65536, 0)", daemon.ingestURI("vda"))
      try daemon.control("seal", "vda", "second")
      try daemon.control("seal", "vda", "third")
      var wanted = Data(count: 65536) + Data("ew".utf8)
      for block in 1..<5 { wanted += Data(repeating: UInt8(block + 1), count: block == 1 ? 65534 : 65536) }
      wanted += Data(count: (1 << 20) - wanted.count)
      for name in ["second", "third"] {
        #expect(try holds("vda@\(name)", wanted))
      }
      // What had no seal is gone by now.
      let first = found.count == 2 ? ["first sealed"] : []
      #expect(try states() == first + ["second sealed", "third sealed", "- arriving"])
      #expect(try run("verify").status == .exited(0))
      try daemon.shutDown()
      #expect(try run("verify", "--rebuild-index").status == .exited(0))
      #expect(try holds("vda@second", wanted))
    }

    @Test("a start that leaves out what the kill left out is noticed")
    func leftOpen() throws {
      try kill(at: "recordTrue:8")
      let daemon = try start("1M", ["SPILLWAY_PLANTED_BUG": "checkpointLeftOpen"])
      let client = try LibNBD.start(Self.compare, daemon.ingestURI("vda"))
      #expect(try client.finish().status == .exited(1))
      // Who reads the index beside a daemon may find one that was begun and no more: that reader knows what to make of it.
      var wanted = Data()
      for block in 0..<16 { wanted += Data(repeating: block < 5 ? UInt8(block + 1) : 0, count: 65536) }
      #expect(try holds("vda", wanted))
      try daemon.shutDown()
    }

    private static let compare = """
      for block in range(16):
          value = block + 1 if block < 5 else 0
          assert bytes(h.pread(65536, block << 16)) == bytes([value]) * 65536, block

      """

    /// Fills five blocks, and has the daemon end itself at `stage` of the seal that follows.
    private func kill(at stage: String) throws {
      let daemon = try start("1M", ["SPILLWAY_FAILPOINT": stage])
      try LibNBD.run(
        """
        for block in range(5): h.pwrite(bytes([block + 1]) * 65536, block << 16)
        tell("written")
        signal.sigwait([signal.SIGUSR1])
        """, daemon.ingestURI("vda"), while: "written"
      ) {
        let seal = try run("ctl", "seal", "vda", "first").status
        let end = try daemon.child.finish(within: .seconds(60)).status
        #expect(seal != .exited(0) && end == .killed(signal: SIGKILL))
      }
    }
  }
}
