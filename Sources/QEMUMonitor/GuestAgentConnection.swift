// The agent's channel is a serial line: it knows no connections and no ids, and what an earlier client left unread is
// still there. Hence every command is preceded by a delimited sync (qemu's interop/qemu-ga): the byte FF, which no JSON
// holds, makes the agent forget half a command, and its answer begins with one too and carries our number back.

/// The guest's agent at the unix socket that qemu offers. For one thread at a time.
package final class GuestAgentConnection: GuestAgent {
  private let path: String
  private var socket: LineSocket
  private var lastNumber = Int64.random(in: 1..<1 << 40)

  private static let delimiter: UInt8 = 0xFF

  /// Connects to the socket at `path`. That an agent is there is known only when it answers.
  package init(connectingTo path: String) throws(QMPError) {
    self.path = path
    socket = try LineSocket(connectingTo: path)
  }

  /// Asks the agent for `command`. When none answers within `limit` that is `agentSilent`, and what it says later is
  /// dropped.
  package func execute(
    _ command: String, arguments: JSONValue?, within limit: Duration
  ) throws(QMPError) -> JSONValue {
    let deadline = ContinuousClock.now + limit
    do throws(QMPError) {
      try synchronize(until: deadline)
      let request = try encode(Request(execute: command, arguments: arguments))
      try socket.write(request, until: deadline, awaited: "room for \(command)")
      let line = try socket.readLine(until: deadline, awaited: "reply to \(command)")
      if let error = try decode(Message.self, from: line).error {
        throw .refused(command: command, class: error.class, description: error.desc)
      }
      return try decode(Success<JSONValue>.self, from: line).return
    } catch .timedOut {
      throw .agentSilent(path: path)
    }
  }

  private func synchronize(until deadline: ContinuousClock.Instant) throws(QMPError) {
    lastNumber += 1
    let sync = Request(execute: "guest-sync-delimited", arguments: ["id": .integer(lastNumber)])
    try socket.write([Self.delimiter] + encode(sync), until: deadline, awaited: "room for a sync")
    while true {
      let line = try socket.readLine(until: deadline, awaited: "sync")
      // Without the byte it answers something older, with another number it answers an older sync.
      guard let mark = line.lastIndex(of: Self.delimiter) else { continue }
      let answer = Array(line[(mark + 1)...])
      if try decode(Success<JSONValue>.self, from: answer).return == .integer(lastNumber) { return }
    }
  }
}
