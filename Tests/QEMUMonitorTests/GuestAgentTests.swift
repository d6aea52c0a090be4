import Peers
import QEMUMonitor
import TestKit
import Testing

// Goal: a line that keeps what earlier clients left unread is never misread.
// Method: a script in Python plays the agent, with leavings of earlier conversations.

@Suite("the guest's agent")
struct GuestAgentTests {
  let directory: TemporaryDirectory

  init() throws { directory = try TemporaryDirectory() }

  @Test("freezes, thaws and tells, though old answers are still on the line")
  func freeze() throws {
    let agent = try playedAgent(
      leavings: #"{"return": "frozen"}\n\xff{"return": 5}\nrest"#,
      answers: [
        "guest-fsfreeze-freeze": #"{"return": 3}"#, "guest-fsfreeze-status": #"{"return": "frozen"}"#,
        "guest-fsfreeze-thaw": #"{"return": 3}"#,
      ])
    #expect(try agent.freeze() == 3)
    #expect(try agent.isFrozen())
    #expect(try agent.thaw() == 3)
    #expect(
      throws: QMPError.refused(command: "make-coffee", class: "CommandNotFound", description: "not here")
    ) { try agent.execute("make-coffee", arguments: nil, within: .seconds(30)) }
    // A refusal does not end the conversation.
    #expect(try agent.isFrozen())
  }

  @Test("that comes too late is silent, and its late answer is nobody's")
  func late() throws {
    let agent = try playedAgent(
      leavings: "", answers: ["guest-fsfreeze-status": #"{"return": "thawed"}"#, "guest-ping": ""])
    #expect(throws: QMPError.agentSilent(path: directory.file("agent.sock"))) {
      try agent.execute("guest-ping", arguments: nil, within: .milliseconds(200))
    }
    #expect(try !agent.isFrozen())
  }

  @Test(
    "is found among the character devices",
    arguments: [
      (#"{"label":"qga0","filename":"unix:/run/a,b,server=on"}"#, "/run/a,b"),
      (
        #"{"label":"charchannel0","filename":"disconnected:unix:/run/org.qemu.guest_agent.0,server=on"}"#,
        "/run/org.qemu.guest_agent.0"
      ),
      (#"{"label":"qga","filename":"unix:/run/q,server"}"#, "/run/q"),
      (#"{"label":"qga","filename":"pty:/dev/pts/1"}"#, nil),
      (#"{"label":"serial0","filename":"unix:/run/s,server=on"}"#, nil),
    ])
  func discovery(device: String, path: String?) throws {
    let monitor = try ScriptedMonitor(
      ScriptedMonitor.opening + [
        .hear,
        .say(
          #"{"return": [{"label":"mon","filename":"unix:/run/m,server=on"},\#(device)], "id": 2}"#),
      ])
    #expect(try QMPConnection(connectingTo: monitor.path).guestAgentSocket() == path)
  }

  /// An agent that says `leavings` unasked, and answers a command by `answers`: each that it got before the next sync,
  /// nothing at once where the answer is empty, but late, before its next.
  private func playedAgent(leavings: String, answers: [String: String]) throws -> PlayedAgent {
    try PlayedAgent(leavings: leavings, answers: answers, in: directory)
  }
}
