import Foundation
import Peers
import TestKit
import Testing

extension EndToEnd {
  /// Goal: a program that reads the status finds every number that the manual promises, and whoever watches sees it change.
  /// Method: a disk that is written, overwritten and compacted; the JSON's members beside those in the manual; `--watch`
  /// into a pipe and on a terminal, through the daemon's end.
  @Suite("status")
  struct StatusTests {
    let directory: TemporaryDirectory
    let journal: String

    init() throws {
      directory = try TemporaryDirectory()
      journal = directory.file("journal")
    }

    private typealias Object = [String: Any]

    private func status() throws -> Object {
      let output = try Spillway.run(["status", "-j", journal, "--json"]).succeeded().output
      return try #require(JSONSerialization.jsonObject(with: Data(output)) as? Object)
    }

    private func number(_ object: Object, _ name: String) throws -> Int {
      try #require(object[name] as? Int, "\(name)")
    }

    /// The names in the tables of "### status" of the manual.
    private func promised() throws -> Set<String> {
      let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent()
      let manual = try String(contentsOf: root.appendingPathComponent("docs/spillway.1.md"), encoding: .utf8)
      let section = try #require(
        manual.components(separatedBy: "### ").first { $0.hasPrefix("status\n") })
      let names = section.split(separator: "\n").filter { $0.hasPrefix("| `") }.flatMap { row in
        row.split(separator: "|")[0].matches(of: /`([A-Za-z0-9]+)`/).map { String($0.output.1) }
      }
      return Set(names)
    }

    private func names(_ value: Any) -> Set<String> {
      if let list = value as? [Any] { return list.reduce(into: []) { $0.formUnion(names($1)) } }
      guard let object = value as? Object else { return [] }
      return object.reduce(into: Set(object.keys)) { $0.formUnion(names($1.value)) }
    }

    @Test("has what the manual lists, and its numbers follow what is overwritten and given back")
    func space() throws {
      let daemon = try SpillwayDaemon(
        journal: journal, disks: ["vda=64M"], in: directory, ["--quota", "256M"])
      let write = "h.pwrite(random.Random(%d).randbytes(16 << 20), 0); h.flush()"
      try LibNBD.run(write.replacing("%d", with: "1"), daemon.ingestURI("vda"))
      let first = try status()
      let live = try number(first, "liveBytes")
      #expect(try number(first, "segmentBytes") >= live)
      #expect(first["quotaBytes"] as? Int == 256 << 20)
      let reserve = try number(first, "reserveBytes")
      #expect(reserve >= 32 << 20 && reserve < 64 << 20, "two segments and an index")
      #expect(try number(first, "freeBytes") > 0)
      #expect(try number(first, "availableBytes") <= (256 << 20) - reserve)
      for seed in 2...4 { try LibNBD.run(write.replacing("%d", with: "\(seed)"), daemon.ingestURI("vda")) }
      try Spillway.run(["compact", "-j", journal]).succeeded()
      let second = try status()
      let secondLive = try number(second, "liveBytes")
      #expect(abs(secondLive - (16 << 20)) < 1 << 20, "\(second)")
      let upkeep = try #require(second["upkeep"] as? Object)
      let unlinked = try number(upkeep, "unlinkedBytes")
      let freed = try unlinked + number(upkeep, "punchedBytes")
      #expect(freed > 32 << 20, "\(upkeep)")
      let text = try Spillway.run(["status", "-j", journal]).succeeded().outputText
      #expect(text.contains("left for writers") && text.contains("upkeep    freed "))

      let promised = try promised()
      let found = names(second)
      #expect(found.subtracting(promised) == [], "the manual does not list them")
      // Only what need not be there is missing.
      let optional: Set = [
        "secondsToFull", "failure", "damage", "disk", "offset", "length", "sequence", "message", "base",
        "tag",
        "endReason", "taintReason", "name", "source",
      ]
      #expect(promised.subtracting(found).subtracting(optional) == [])
      try daemon.shutDown()
      let closed = try status()
      #expect(closed["reserveBytes"] == nil && closed["upkeep"] == nil && closed["availableBytes"] == nil)
      let closedLive = try number(closed, "liveBytes")
      #expect(abs(closedLive - (16 << 20)) < 1 << 20)
    }

    @Test("--watch says it again and again, through the end of the daemon, and ends when nobody reads")
    func watch() throws {
      let daemon = try SpillwayDaemon(journal: journal, disks: ["vda=1M"], in: directory)
      let watcher = try ChildProcess(
        "/bin/sh", ["-c", "exec \"$0\" status -j \"$1\" --json --watch >&2", Spillway.path(), journal])
      try watcher.waitForErrorLine(containing: "\"isServed\":true", within: .seconds(60))
      try LibNBD.run("h.pwrite(b'x' * 4096, 0); h.flush()", daemon.ingestURI("vda"))
      try watcher.waitForErrorLine(containing: "\"writtenBytes\":4096", within: .seconds(60))
      try daemon.shutDown()
      try watcher.waitForErrorLine(containing: "\"isServed\":false", within: .seconds(60))
      for line in watcher.errorLines {
        #expect(try JSONSerialization.jsonObject(with: Data(line.utf8)) is Object)
      }
      watcher.terminate()
      #expect(try watcher.finish().status == .killed(signal: SIGTERM))

      let piped = try ChildProcess(
        "/bin/sh", ["-c", "\"$0\" status -j \"$1\" --watch | head -n 12", Spillway.path(), journal]
      ).finish()
      #expect(piped.outputText.components(separatedBy: "journal   ").count >= 3, "\(piped.outputText)")
      #expect(piped.outputText.contains("\n\njournal "), "an empty line between them")
      #expect(try Spillway.run(["status", "-j", directory.file("none"), "--watch"]).status == .exited(2))
    }

    @Test("--watch on a terminal draws over what was there")
    func terminal() throws {
      let daemon = try SpillwayDaemon(journal: journal, disks: ["vda=1M"], in: directory)
      let script = """
        import os, pty, signal, sys
        child, terminal = pty.fork()
        if child == 0: os.execv(sys.argv[1], sys.argv[1:])
        said = b""
        while said.count(b"\\x1b[H") < 2: said += os.read(terminal, 4096)
        assert b"\\x1b[K" in said and b"journal   " in said, said
        os.kill(child, signal.SIGINT)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGINT
        """
      try Program.python.run(["-c", script, Spillway.path(), "status", "-j", journal, "--watch"])
      try daemon.shutDown()
    }
  }
}
