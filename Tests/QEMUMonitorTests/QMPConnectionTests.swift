import QEMUMonitor
import Testing

// The conversation is checked against a scripted monitor, which can say anything at any point; that qemu's own
// monitor is understood is shown in `RealMonitorTests` and by every push of the end-to-end tests.

@Suite("a monitor connection")
struct QMPConnectionTests {
  @Test("greets, negotiates and numbers its commands")
  func greeting() throws {
    let monitor = try ScriptedMonitor(ScriptedMonitor.opening + [.hear, .say(#"{"return": {}, "id": 2}"#)])
    let connection = try QMPConnection(connectingTo: monitor.path)
    #expect(connection.greeting["version"]?["package"] == "scripted")
    try connection.execute("job-dismiss", arguments: ["id": "a/b"])
    #expect(
      monitor.heard == [
        #"{"execute":"qmp_capabilities","id":1}"#,
        #"{"arguments":{"id":"a/b"},"execute":"job-dismiss","id":2}"#,
      ])
  }

  @Test("decodes a reply into the type that the caller names")
  func decoding() throws {
    struct Reply: Decodable, Equatable {
      var disk: String
      var bytes: UInt64
    }
    let monitor = try ScriptedMonitor(
      ScriptedMonitor.opening
        + [.hear, .say(#"{"return": {"disk": "vda", "bytes": 18446744073709551615}, "id": 2}"#)])
    let reply = try QMPConnection(connectingTo: monitor.path).execute("status", as: Reply.self)
    #expect(reply == Reply(disk: "vda", bytes: .max))
  }

  @Test("keeps the events that come while it waits for a reply, in order")
  func keptEvents() throws {
    let monitor = try ScriptedMonitor(
      ScriptedMonitor.opening + [
        .hear, .say(#"{"event": "A", "data": {"n": 1}}"#), .say(#"{"event": "B"}"#),
        .say(#"{"event": "A", "data": {"n": 2}}"#), .say(#"{"return": 7, "id": 2}"#), .keepSilent,
      ])
    let connection = try QMPConnection(connectingTo: monitor.path)
    #expect(try connection.execute("anything") == 7)
    let isA = { (event: QMPEvent) in event.name == "A" }
    #expect(try connection.nextEvent(within: .zero, where: isA)?.data["n"] == 1)
    #expect(try connection.nextEvent(within: .zero, where: isA)?.data["n"] == 2)
    #expect(try connection.nextEvent(within: .zero, where: isA) == nil)
    #expect(try connection.nextEvent(within: .zero) { _ in true } == QMPEvent(name: "B"))
  }

  @Test("tells a refusal in the other side's own words and goes on")
  func refusal() throws {
    let monitor = try ScriptedMonitor(
      ScriptedMonitor.opening + [
        .hear, .say(#"{"error": {"class": "GenericError", "desc": "no such node"}, "id": 2}"#),
        .hear, .say(#"{"return": {}, "id": 3}"#),
      ])
    let connection = try QMPConnection(connectingTo: monitor.path)
    let refusal = QMPError.refused(
      command: "blockdev-del", class: "GenericError", description: "no such node")
    #expect(throws: refusal) { try connection.execute("blockdev-del") }
    try connection.execute("query-jobs")
  }

  @Test("gives a command up after its time and drops the late reply")
  func lateReply() throws {
    let monitor = try ScriptedMonitor(
      ScriptedMonitor.opening + [
        .hear, .hear, .say(#"{"return": "late", "id": 2}"#), .say(#"{"return": "now", "id": 3}"#),
      ])
    let connection = try QMPConnection(connectingTo: monitor.path)
    connection.timeout = .milliseconds(1)
    #expect(throws: QMPError.timedOut(awaited: "reply to slow")) { try connection.execute("slow") }
    connection.timeout = .seconds(30)
    #expect(try connection.execute("quick") == "now")
  }

  @Test("says what it was waiting for when the other side hangs up")
  func endOfFile() throws {
    let monitor = try ScriptedMonitor(ScriptedMonitor.opening + [.hear])
    let connection = try QMPConnection(connectingTo: monitor.path)
    #expect(throws: QMPError.closed(awaited: "reply to query-jobs")) { try connection.execute("query-jobs") }
  }

  @Test("refuses a peer that speaks something else")
  func malformed() throws {
    let monitor = try ScriptedMonitor([.say("220 mail.example ESMTP")])
    #expect(throws: QMPError.malformed(line: "220 mail.example ESMTP")) {
      _ = try QMPConnection(connectingTo: monitor.path)
    }
  }

  @Test("tells why it was not let in")
  func turnedAway() throws {
    let monitor = try ScriptedMonitor([
      .say(#"{"error": {"class": "failed", "desc": "all seats are taken"}}"#)
    ])
    let refusal = QMPError.refused(
      command: "connecting", class: "failed", description: "all seats are taken")
    #expect(throws: refusal) { _ = try QMPConnection(connectingTo: monitor.path) }
  }

  @Test("tells a missing socket from a silent one")
  func missing() throws {
    let error = #expect(throws: QMPError.self) {
      _ = try QMPConnection(connectingTo: "/nowhere/monitor.sock")
    }
    #expect(
      error?.description
        == "cannot connect to the monitor at /nowhere/monitor.sock: No such file or directory")
    let silent = try ScriptedMonitor([.keepSilent])
    let occupied = QMPError.occupied(path: silent.path)
    #expect(throws: occupied) { _ = try QMPConnection(connectingTo: silent.path, timeout: .milliseconds(1)) }
    #expect(
      occupied.description
        == "another program holds the monitor at \(silent.path): qemu talks to one at a time")
  }
}
