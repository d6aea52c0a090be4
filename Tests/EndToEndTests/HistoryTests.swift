import Foundation
import Glibc
import Peers
import TestKit
import Testing

extension EndToEnd {
  /// Goal: with `--history` a disk can be read as it was at any end of a batch, over NBD and by the tools, online and offline,
  /// and the space comes back when the horizon has moved on.
  /// Method: a client writes eight rounds over the whole disk, each flushed, so that each ends a batch; `log` says where.
  @Suite("history")
  struct HistoryTests {
    private static let blockBytes = 64 << 10
    private static let blockCount = 64
    private static var byteCount: Int { blockBytes * blockCount }

    let directory: TemporaryDirectory
    let journal: String

    init() throws {
      directory = try TemporaryDirectory()
      journal = directory.file("journal")
    }

    private func start(_ more: String...) throws -> SpillwayDaemon {
      try SpillwayDaemon(
        journal: journal, disks: ["vda=\(Self.byteCount)"], in: directory, ["--spool-size", "16M"] + more)
    }

    /// Round n fills every block with random bytes that begin with n, and is flushed.
    private static let rounds = """
      for turn in range(first, last):
          for block in range(64): h.pwrite(bytes([turn]) + random.randbytes(65535), block << 16)
          h.flush()

      """

    private func write(_ rounds: Range<Int>, _ daemon: SpillwayDaemon) throws {
      try LibNBD.run(
        "first, last = \(rounds.lowerBound), \(rounds.upperBound)\n\(Self.rounds)", daemon.ingestURI("vda"))
    }

    private struct Line: Decodable {
      var sequence: UInt64
      var kind: String
      var batchEnd: UInt64?
      var time: UInt64?
    }

    /// The ends of batches and their times, as the log tells them.
    private func ends() throws -> [(sequence: UInt64, time: UInt64)] {
      let log = try Spillway.run(["log", "-j", journal, "vda", "--json"]).succeeded().outputText
      var ends: [(sequence: UInt64, time: UInt64)] = []
      for line in log.split(separator: "\n") {
        let record = try JSONDecoder().decode(Line.self, from: Data(line.utf8))
        if let end = record.batchEnd, let time = record.time, end != ends.last?.sequence {
          ends.append((end, time))
        }
      }
      return ends
    }

    private func replayed(_ name: String, _ more: String...) throws -> [UInt8] {
      let output = directory.file("output.raw")
      try Spillway.run(["replay", "-j", journal, name, output, "--force"] + more).succeeded()
      return [UInt8](try Data(contentsOf: URL(fileURLWithPath: output)))
    }

    /// The round of each block; nil unless all of the block is what the client wrote.
    private func roundsOfBlocks(_ image: [UInt8]) -> [UInt8] {
      stride(from: 0, to: image.count, by: Self.blockBytes).map { image[$0] }
    }

    @Test(
      "shows every flushed round over NBD and in replays, before and after compaction, online and offline")
    func rounds() throws {
      let daemon = try start("--history", "1G")
      try write(1..<9, daemon)
      try Spillway.run(["compact", "-j", journal]).succeeded()
      let ends = try ends()
      #expect(ends.count >= 8)
      let status = try Spillway.run(["status", "-j", journal]).succeeded().outputText
      #expect(status.contains("exact from sequence 0"), "\(status)")

      // Of each round the first end of a batch in which all blocks are of that round is its flush.
      var flushes: [(round: UInt8, sequence: UInt64, time: UInt64, image: [UInt8])] = []
      for end in ends {
        let image = try replayed("vda@=\(end.sequence)")
        let found = Set(roundsOfBlocks(image))
        guard let round = found.first, found.count == 1, round > 0, flushes.last?.round != round else {
          continue
        }
        flushes.append((round, end.sequence, end.time, image))
      }
      #expect(flushes.map(\.round) == Array(1...8))

      // Over NBD, from the view socket, while compaction runs and another round is written.
      let views = flushes.map { daemon.viewURI("vda@=\($0.sequence)") }
      let files = try flushes.map { flush in
        let file = directory.file("round\(flush.round)")
        try Data(flush.image).write(to: URL(fileURLWithPath: file))
        return file
      }
      let script = """
        views, files = uris[:8], uris[8:]
        handles = [connect(uri) for uri in views]
        def check():
            for handle, file in zip(handles, files):
                assert handle.is_read_only()
                with open(file, "rb") as wanted: assert handle.pread(\(Self.byteCount), 0) == wanted.read()
        check()
        expect_error("EPERM", lambda: handles[0].pwrite(b"x" * 512, 0))
        tell("read once.")
        signal.sigwait([signal.SIGUSR1])
        check()
        """
      let reader = try Program.python.start(["-c", LibNBD.unconnected(script)] + views + files)
      try reader.waitForErrorLine(containing: "read once.", within: .seconds(120))
      try write(9..<12, daemon)
      try Spillway.run(["compact", "-j", journal]).succeeded()
      reader.send(SIGUSR1)
      try reader.finish(within: .seconds(120)).succeeded()

      // A sequence between two ends, and one that is not there yet.
      let all = try self.ends().map(\.sequence)
      let between = try #require(zip(all, all.dropFirst()).first { $0 + 1 < $1 })
      let refused = try Spillway.run(["replay", "-j", journal, "vda@=\(between.0 + 1)", directory.file("no")])
      #expect(refused.status == .exited(2))
      #expect(
        refused.errorLines.joined().contains("\(between.0) and \(between.1)"),
        "\(refused.errorLines.joined())")
      let later = try Spillway.run(["map", "-j", journal, "vda@=99999999"])
      #expect(
        later.status == .exited(2) && later.errorLines.joined().contains("not written yet"),
        "\(later.errorLines.joined())")
      let connection = try Program.qemuImg.start(["info", daemon.viewURI("vda@=\(between.0 + 1)")])
      let refusal = try connection.finish(within: .seconds(60)).errorLines.joined()
      #expect(refusal.contains("\(between.0) and \(between.1)"), "\(refusal)")

      try daemon.shutDown()
      for flush in flushes {
        #expect(try replayed("vda@=\(flush.sequence)") == flush.image, "round \(flush.round)")
      }
      let chosen = flushes[4]
      let second = String(chosen.time / 1_000_000_000)
      let nanoseconds = String(chosen.time % 1_000_000_000)
      let padding = String(repeating: "0", count: 9 - nanoseconds.count)
      let atTime = try replayed("vda", "--at", "@\(second).\(padding)\(nanoseconds)")
      #expect(atTime == chosen.image)
      let early = try Spillway.run(["replay", "-j", journal, "vda", directory.file("no"), "--at", "@1"])
      #expect(
        early.status == .exited(2) && early.errorLines.joined().contains("before the horizon"),
        "\(early.errorLines.joined())")
      #expect(try Spillway.run(["verify", "-j", journal]).status == .exited(0))
    }

    @Test("gives the space back when the horizon moves on, and with it what can be read")
    func space() throws {
      var daemon = try start("--history", "1G")
      try write(1..<7, daemon)
      let first = try ends()[0].sequence
      try Spillway.run(["compact", "-j", journal]).succeeded()
      #expect(DiskUsage.bytes(of: journal + "/segments") > UInt64(6 * Self.byteCount))
      #expect(try Spillway.status(journal).historyBytes >= UInt64(5 * Self.byteCount))
      try daemon.shutDown()

      daemon = try start()
      try write(7..<8, daemon)
      try Spillway.run(["compact", "-j", journal]).succeeded()
      try write(8..<9, daemon)
      try Spillway.run(["compact", "-j", journal]).succeeded()
      let taken = DiskUsage.bytes(of: journal + "/segments")
      #expect(taken < UInt64(3 * Self.byteCount), "\(taken)")
      #expect(try Spillway.status(journal).historyBytes == 0)
      let old = try Spillway.run(["replay", "-j", journal, "vda@=\(first)", directory.file("no")])
      #expect(
        old.status == .exited(2) && old.errorLines.joined().contains("before the horizon"),
        "\(old.errorLines.joined())")
      try daemon.shutDown()
    }
  }
}
