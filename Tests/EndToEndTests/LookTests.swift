import Foundation
import Peers
import TestKit
import Testing

extension EndToEnd {
  /// Goal: everything about space can be seen and checked from outside.
  /// Method: a small disk with one extent of each kind; `map`, `log` and `compact`, beside a daemon and without one.
  @Suite("map, log and compact")
  struct LookTests {
    let directory: TemporaryDirectory
    let journal: String

    init() throws {
      directory = try TemporaryDirectory()
      journal = directory.file("journal")
    }

    private func lines<Line: Decodable>(_ arguments: [String], as: Line.Type) throws -> [Line] {
      let answer = try Spillway.run([arguments[0], "-j", journal] + arguments.dropFirst() + ["--json"])
        .succeeded()
      return try answer.outputText.split(separator: "\n").map {
        try JSONDecoder().decode(Line.self, from: Data($0.utf8))
      }
    }

    private struct Run: Decodable, Equatable {
      var offset: Int
      var length: Int
      var state: String
    }

    private struct Record: Decodable {
      var sequence: UInt64
      var time: Int64?
      var disk: String?
      var generation: String?
      var kind: String
      var offset: UInt64
      var length: UInt64
      var stored: UInt64
      var batchEnd: UInt64?
    }

    @Test("each run and each record is there, in order, from the daemon and from the closed journal")
    func mapAndLog() throws {
      let daemon = try SpillwayDaemon(journal: journal, disks: ["vda=1M,mode=snapshot"], in: directory)
      try LibNBD.run(
        "h.pwrite(b'a' * 65536, 0); h.zero(65536, 65536, nbd.CMD_FLAG_NO_HOLE); h.flush()",
        daemon.ingestURI("vda"))
      try daemon.control("release", "vda", "32K", "32K")
      let expected = [
        Run(offset: 0, length: 32768, state: "data"), Run(offset: 32768, length: 32768, state: "released"),
        Run(offset: 65536, length: 65536, state: "zero"),
      ]
      let live = try lines(["map", "vda"], as: Run.self)
      #expect(Array(live[..<3]) == expected)
      #expect(live[3].length == (1 << 20) - 131_072 && ["awaited", "absent"].contains(live[3].state))
      let records = try lines(["log", "vda"], as: Record.self)
      #expect(records.map(\.sequence) == records.map(\.sequence).sorted())
      let kinds = records.map(\.kind)
      #expect(kinds.starts(with: ["disk", "begin"]) && kinds.last == "release")
      let data = try #require(records.first { $0.kind == "data" })
      #expect(data.disk == "vda" && data.length > 0 && data.stored > 0)
      #expect(records.allSatisfy { $0.batchEnd.map { end in end > 0 } ?? false && ($0.time ?? 0) > 0 })
      let zero = try #require(records.first { $0.kind == "zero" })
      #expect(zero.offset == 65536 && zero.length == 65536 && zero.batchEnd ?? 0 >= zero.sequence)
      try daemon.shutDown()
      #expect(try lines(["map", "vda@live"], as: Run.self) == live)
      #expect(try lines(["log"], as: Record.self).count >= records.count)
      let text = try Spillway.run(["log", "-j", journal]).succeeded().outputText
      #expect(text.contains("release") && text.contains("T"))
      #expect(try Spillway.run(["map", "-j", journal, "vdb"]).status == .exited(2))
      #expect(try Spillway.run(["log", "-j", journal, "vdb"]).status == .exited(2))
    }

    /// What spillway with `arguments` shows on a terminal of its own.
    private func onTerminal(_ arguments: [String]) throws -> String {
      let command = ([try Spillway.path()] + arguments).joined(separator: " ")
      return try ChildProcess("/usr/bin/script", ["-qec", command, "/dev/null"])
        .finish(within: .seconds(120)).succeeded().outputText
    }

    @Test(
      "compact gives back what was overwritten, with a daemon and without, and nothing that is shown changes")
    func compact() throws {
      let daemon = try SpillwayDaemon(journal: journal, disks: ["vda=32M"], in: directory)
      let write = """
        generator = random.Random(7)
        for round in range(4):
            for offset in range(0, 32 << 20, 1 << 20):
                h.pwrite(generator.randbytes(1 << 20), offset)
            h.flush()
        open("\(directory.file("expected"))", "wb").write(b"".join(h.pread(1 << 20, o) for o in range(0, 32 << 20, 1 << 20)))
        """
      try LibNBD.run(write, daemon.ingestURI("vda"))
      let said = try Spillway.run(["compact", "-j", journal]).succeeded()
      #expect(said.outputText.contains("segments removed"))
      #expect(said.errorLines.isEmpty, "nobody looks at it")
      #expect(try daemon.status().segmentBytes < 80 << 20)
      let progress = "compact: the segments take "
      #expect(try onTerminal(["compact", "-j", journal]).contains(progress))
      try daemon.shutDown()
      #expect(try onTerminal(["compact", "-j", journal]).contains(progress))
      try Spillway.run(["compact", "-j", journal]).succeeded()
      #expect(try Spillway.run(["verify", "-j", journal]).status == .exited(0))
      try Spillway.replay(journal, "vda", to: directory.file("out"))
      let expected = FileManager.default.contents(atPath: directory.file("expected"))
      #expect(FileManager.default.contents(atPath: directory.file("out")) == expected)
    }
  }
}
