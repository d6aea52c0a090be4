import TestKit
import Foundation
import Peers
import Testing

extension EndToEnd {
  /// What a user sees when it does not work: one line on stderr, and an exit code that a script can tell apart.
  @Suite("a failure is one line and the right exit code")
  struct CommandLineTests {
    let directory: TemporaryDirectory
    let journal: String

    init() throws {
      directory = try TemporaryDirectory()
      journal = directory.file("journal")
    }

    @Test(
      "a command line that cannot be meant is 2",
      arguments: [
        ["serve", "--no-such-option"],
        ["serve", "--disk", "vda=1M"],
        ["serve", "-j", "JOURNAL", "--disk", "vda"],
        ["serve", "-j", "JOURNAL", "--disk", "vda=12Q"],
        ["serve", "-j", "JOURNAL", "--disk", "vda=1000"],
        ["serve", "-j", "JOURNAL", "--disk", "v/da=1M"],
        ["serve", "-j", "JOURNAL", "--disk", "vda=1M,mode=tape"],
        ["serve", "-j", "JOURNAL", "--disk", "vda=1M", "--listen", "carrier-pigeon:coop"],
        ["serve", "-j", "JOURNAL", "--disk", "vda=1M", "--unarrived", "perhaps"],
        ["serve", "-j", "JOURNAL", "--disk", "vda=1M", "--quota", "63M"],
        ["serve", "-j", "JOURNAL", "--disk", "vda=1M", "--keep", "0"],
        ["replay", "-j", "JOURNAL"],
        ["no-such-command"],
      ])
    func usage(_ arguments: [String]) throws {
      try expectFailure(arguments.map { $0 == "JOURNAL" ? journal : $0 }, exitCode: 2)
      #expect(!FileManager.default.fileExists(atPath: journal))
    }

    @Test("a journal that another daemon has open is 4")
    func inUse() throws {
      let daemon = try SpillwayDaemon(journal: journal, disks: ["vda=1M"], in: directory)
      try expectFailure(["serve", "-j", journal, "--disk", "vda=1M"], exitCode: 4)
      // The one that was there first is none the worse.
      #expect(try daemon.status().isServed)
      try daemon.shutDown()
    }

    @Test(
      "a disk that contradicts the journal is 2", arguments: ["vda=2M", "vda=1M,mode=snapshot"])
    func contradiction(_ disk: String) throws {
      try SpillwayDaemon(journal: journal, disks: ["vda=1M,mode=device"], in: directory).shutDown()
      try expectFailure(["serve", "-j", journal, "--disk", disk], exitCode: 2)
    }

    @Test("a journal without its superblock is 3; segments without theirs are served from what repeats it")
    func damage() throws {
      let source = directory.file("source.raw")
      try PatternedImage(at: source, byteCount: 4 << 20, seed: 3)
      let daemon = try SpillwayDaemon(journal: journal, disks: ["vda=4M"], in: directory)
      try Program.nbdcopy.run([source, daemon.ingestURI("vda")])
      try daemon.shutDown()

      func spoil(_ path: String) throws {
        let file = try #require(FileHandle(forUpdatingAtPath: path))
        file.write(Data(repeating: 0xa5, count: 4096))
        try file.close()
      }
      let segments = try FileManager.default.contentsOfDirectory(atPath: "\(journal)/segments")
      try #require(!segments.isEmpty)
      for segment in segments { try spoil("\(journal)/segments/\(segment)") }
      let replayed = directory.file("replayed.raw")
      try Spillway.replay(journal, "vda", to: replayed)
      try EndToEnd.expectIdentical(source, replayed)

      try spoil("\(journal)/journal")
      try expectFailure(["serve", "-j", journal], exitCode: 3)
      try expectFailure(["replay", "-j", journal, "vda", directory.file("again.raw")], exitCode: 3)
    }

    @Test("a replay that cannot be done is told in one line")
    func replay() throws {
      let output = directory.file("output.raw")
      let nothing = try Spillway.run(["replay", "-j", journal, "vda", output])
      #expect(nothing.status != .exited(0))
      expectOneLine(nothing)

      try SpillwayDaemon(journal: journal, disks: ["vda=1M"], in: directory).shutDown()
      let unknown = try Spillway.run(["replay", "-j", journal, "vdb", output])
      #expect(unknown.status != .exited(0))
      expectOneLine(unknown)

      try Data("precious".utf8).write(to: URL(fileURLWithPath: output))
      let unforced = try Spillway.run(["replay", "-j", journal, "vda", output])
      #expect(unforced.status != .exited(0))
      expectOneLine(unforced)
      #expect(FileManager.default.contents(atPath: output) == Data("precious".utf8))
    }

    private func expectFailure(
      _ arguments: [String], exitCode: Int32, _ location: SourceLocation = #_sourceLocation
    ) throws {
      let result = try Spillway.run(arguments, within: .seconds(60))
      #expect(result.status == .exited(exitCode), "\(result.command)", sourceLocation: location)
      expectOneLine(result, location)
    }

    private func expectOneLine(_ result: FinishedProcess, _ location: SourceLocation = #_sourceLocation) {
      #expect(
        result.errorLines.count == 1 && result.errorLines.first?.isEmpty == false,
        "\(result.command) said: \(result.errorLines)", sourceLocation: location)
    }
  }
}
