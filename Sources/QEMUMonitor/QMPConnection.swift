// A client of the QEMU Machine Protocol: one JSON object a line, commands answered in order, events in between.
//
// qemu's monitor speaks it, and so does Spillway's own admin socket; nothing here knows which one it talks to.
// The conversation is plain blocking code. Nobody reads the socket between calls: events wait in its buffer, and
// the next call finds them. That costs nothing, needs no thread and leaves nothing to be torn down.

/// A conversation over a monitor's unix socket. For one thread at a time.
package final class QMPConnection: Monitor {
  /// What the other side said of itself: the content of `{"QMP": ...}`.
  package private(set) var greeting: JSONValue
  /// How long a command, or its answer, may take; nil is for ever.
  package var timeout: Duration?

  /// Where the monitor listens.
  package let path: String

  private var socket: LineSocket
  private var lastID: Int64 = 0
  private var keptEvents = KeptEvents()

  /// Connects to the unix socket at `path` and gets capability negotiation over with.
  package init(connectingTo path: String, timeout: Duration? = .seconds(30)) throws(QMPError) {
    self.path = path
    self.timeout = timeout
    var socket = try LineSocket(connectingTo: path)
    greeting = try socket.readGreeting(of: path, within: timeout)
    self.socket = socket
    try execute("qmp_capabilities")
  }

  /// Hangs up, so that another may come in; `reconnect` begins anew.
  package func disconnect() {
    socket.disconnect()
    keptEvents.removeAll()
  }

  /// Hangs up and connects to the same path again.
  package func reconnect() throws(QMPError) {
    // The old connection first: qemu greets nobody as long as it has one.
    disconnect()
    var fresh = try LineSocket(connectingTo: path)
    greeting = try fresh.readGreeting(of: path, within: timeout)
    socket = fresh
    try execute("qmp_capabilities")
  }

  /// Sends a command and decodes what came back.
  package func execute<Reply: Decodable>(
    _ command: String, arguments: JSONValue?, as type: Reply.Type
  ) throws(QMPError) -> Reply {
    lastID += 1
    let deadline = timeout.map { ContinuousClock.now + $0 }
    let request = Request(execute: command, arguments: arguments, id: lastID)
    try socket.write(encode(request), until: deadline, awaited: "room for \(command)")
    while true {
      let line = try socket.readLine(until: deadline, awaited: "reply to \(command)")
      let message = try decode(Message.self, from: line)
      if message.event != nil {
        keptEvents.keep(try decode(QMPEvent.self, from: line))
      } else if message.id == .integer(lastID) || (message.id == nil && message.error != nil) {
        // An error without an id is qemu's answer to something that it could not even parse.
        if let error = message.error {
          throw .refused(command: command, class: error.class, description: error.desc)
        }
        return try decode(Success<Reply>.self, from: line).return
      }
      // Else it is the late answer to a command that was given up: nobody wants it.
    }
  }

  /// The first event, kept or to come, that `isWanted` accepts, which is then kept no longer. Nil when none
  /// came within `timeout`.
  package func nextEvent(
    within timeout: Duration, where isWanted: (QMPEvent) -> Bool
  ) throws(QMPError) -> QMPEvent? {
    if let event = keptEvents.take(where: isWanted) { return event }
    let deadline = ContinuousClock.now + timeout
    while true {
      let line: [UInt8]
      do {
        line = try socket.readLine(until: deadline, awaited: "event")
      } catch .timedOut {
        return nil
      }
      guard try decode(Message.self, from: line).event != nil else { continue }
      let event = try decode(QMPEvent.self, from: line)
      if isWanted(event) { return event }
      keptEvents.keep(event)
    }
  }

  /// The events that came before the last reply, in order, and are kept no longer. Nil when there were more than are kept.
  package func takeEvents() -> [QMPEvent]? { keptEvents.takeAll() }
}

extension LineSocket {
  /// Reads the first line of a conversation.
  fileprivate mutating func readGreeting(of path: String, within timeout: Duration?) throws(QMPError)
    -> JSONValue
  {
    let line: [UInt8]
    do throws(QMPError) {
      line = try readLine(until: timeout.map { .now + $0 }, awaited: "greeting")
    } catch .timedOut {
      throw .occupied(path: path)
    }
    let opening = try decode(Opening.self, from: line)
    if let error = opening.error {
      throw .refused(command: "connecting", class: error.class, description: error.desc)
    }
    guard let greeting = opening.greeting else { throw .malformed(line: text(line)) }
    return greeting
  }
}
