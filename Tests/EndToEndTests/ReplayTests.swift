import TestKit
import Foundation
import Peers
import Testing

extension EndToEnd {
  /// Goal: a replay is one moment of the disk, and everything acknowledged before it was asked for is in it.
  /// Method: a client writes a disk of 64 blocks round after round, one request in flight, each block filled with
  /// the number of its round. So a moment of the disk is some blocks of round n + 1 and after them those of n.
  @Suite("replay")
  struct ReplayTests {
    private static let blockBytes = 64 << 10
    private static let blockCount = 64

    private static let writer = """
      for turn in range(1, 100000):
          for block in range(64): h.pwrite(turn.to_bytes(4, "big") * (16 << 10), block << 16)
          tell("round %d." % turn)
      """

    let directory: TemporaryDirectory
    let journal: String

    init() throws {
      directory = try TemporaryDirectory()
      journal = directory.file("journal")
    }

    private func start(_ more: String...) throws -> SpillwayDaemon {
      try SpillwayDaemon(
        journal: journal, disks: ["vda=\(Self.blockBytes * Self.blockCount)"], in: directory, more)
    }

    @Test("shows one moment while the disk is written, and the last one after a crash and after a shutdown")
    func moments() throws {
      // A small ring goes round often, so that each replay meets spilling, indexing and reuse.
      let daemon = try start("--spool-size", "16M")
      let writer = try LibNBD.start(Self.writer, daemon.ingestURI("vda"))
      for turn in [1, 20, 60, 61] {
        try writer.waitForErrorLine(containing: "round \(turn).", within: .seconds(120))
        try expectMoment(since: lastRound(writer))
      }
      // Killed with requests on the way: what the client was told is there, at most one block more.
      try writer.waitForErrorLine(containing: "round 100.", within: .seconds(120))
      daemon.kill()
      _ = try writer.finish()
      let acknowledged = lastRound(writer)
      let crashed = try expectMoment(since: acknowledged)
      #expect(crashed <= acknowledged + 1)

      // The offline replay has recovered the journal; a daemon goes on from there.
      let next = try start("--spool-size", "16M")
      let second = try LibNBD.start(
        "h.pwrite((7 << 24).to_bytes(4, 'big') * (16 << 10), 0); h.pwrite(b'end.' * 1024, 65536); h.shutdown()",
        next.ingestURI("vda"))
      try second.finish().succeeded()
      try next.shutDown()
      let output = try replayed()
      #expect(output.prefix(4) == Data([7, 0, 0, 0]))
      #expect(output[65536..<65540] == Data("end.".utf8))
    }

    @Test("of a stream that has not ended says how much is missing, and is a success")
    func incomplete() throws {
      let daemon = try start()
      let writer = try LibNBD.start(
        "h.pwrite(b'x' * 65536, 65536); tell('written'); signal.pause()", daemon.ingestURI("vda"))
      try writer.waitForErrorLine(containing: "written", within: .seconds(60))
      let output = directory.file("output.raw")
      let done = try Spillway.run(["replay", "-j", journal, "vda", output])
      #expect(done.status == .exited(0))
      #expect(done.errorLines.count == 1 && done.errorLines[0].contains("not ended"), "\(done.errorLines)")
      let bytes = try #require(FileManager.default.contents(atPath: output))
      #expect(bytes.count == Self.blockBytes * Self.blockCount)
      #expect(bytes.prefix(65536) == Data(count: 65536))
      #expect(bytes[65536..<131072] == Data(repeating: UInt8(ascii: "x"), count: 65536))
      writer.kill()
      try daemon.shutDown()
    }

    private func lastRound(_ writer: ChildProcess) -> Int {
      writer.errorLines.compactMap { line in
        line.wholeMatch(of: /round (\d+)\./).flatMap { Int($0.output.1) }
      }.last ?? 0
    }

    private func replayed() throws -> Data {
      let output = directory.file("output.raw")
      try Spillway.run(["replay", "-j", journal, "vda", output, "--force"]).succeeded()
      return try #require(FileManager.default.contents(atPath: output))
    }

    /// Replays and expects a moment not before the end of round `since`; returns the round it was in.
    @discardableResult
    private func expectMoment(since: Int) throws -> Int {
      let bytes = try replayed()
      try #require(bytes.count == Self.blockBytes * Self.blockCount)
      let rounds = (0..<Self.blockCount).map { block -> Int in
        let content = bytes[block * Self.blockBytes..<(block + 1) * Self.blockBytes]
        #expect(content.dropFirst(4) == content.dropLast(4), "block \(block) is of two moments")
        return content.prefix(4).reduce(0) { $0 << 8 | Int($1) }
      }
      let (first, last) = (rounds[0], rounds[rounds.count - 1])
      #expect(last >= since, "round \(since) was acknowledged, and the replay shows \(last)")
      #expect(first - last <= 1 && rounds == rounds.sorted(by: >), "no moment of the disk: \(rounds)")
      return first
    }
  }
}
