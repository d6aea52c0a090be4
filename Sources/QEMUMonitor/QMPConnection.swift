// A client of the QEMU Machine Protocol: one JSON object a line, commands answered in order, events in between.
//
// qemu's monitor speaks it, and so does Spillway's own admin socket; nothing here knows which one it talks to.
// The conversation is plain blocking code. Nobody reads the socket between calls: events wait in its buffer, and
// the next call finds them. That costs nothing, needs no thread and leaves nothing to be torn down.

internal import FoundationEssentials

/// A conversation with a monitor. For one thread at a time.
package final class QMPConnection {
  /// What the other side said of itself: the content of `{"QMP": ...}`.
  package let greeting: JSONValue
  /// How long a command, or its answer, may take; nil is for ever.
  package var timeout: Duration?

  /// Events that nobody has waited for are kept up to this number; then the oldest are dropped.
  package static let keptEventsMax = 4096

  private var socket: LineSocket
  private var lastID: Int64 = 0
  private var keptEvents: [QMPEvent] = []
  private var hasDroppedEvents = false

  /// Connects to the unix socket at `path` and gets capability negotiation over with.
  package init(connectingTo path: String, timeout: Duration? = .seconds(30)) throws(QMPError) {
    self.timeout = timeout
    var socket = try LineSocket(connectingTo: path)
    let line = try socket.readLine(until: timeout.map { .now + $0 }, awaited: "greeting")
    let opening = try decode(Opening.self, from: line)
    if let error = opening.error {
      throw .refused(command: "connecting", class: error.class, description: error.desc)
    }
    guard let greeting = opening.greeting else { throw .malformed(line: text(line)) }
    self.greeting = greeting
    self.socket = socket
    try execute("qmp_capabilities")
  }

  /// Sends a command and returns what came back, once it came.
  @discardableResult
  package func execute(_ command: String, arguments: JSONValue? = nil) throws(QMPError) -> JSONValue {
    try execute(command, arguments: arguments, as: JSONValue.self)
  }

  /// Sends a command and decodes what came back.
  package func execute<Reply: Decodable>(
    _ command: String, arguments: JSONValue? = nil, as type: Reply.Type
  ) throws(QMPError) -> Reply {
    lastID += 1
    let deadline = timeout.map { ContinuousClock.now + $0 }
    let request = Request(execute: command, arguments: arguments, id: lastID)
    try socket.write(encode(request), until: deadline, awaited: "room for \(command)")
    while true {
      let line = try socket.readLine(until: deadline, awaited: "reply to \(command)")
      let message = try decode(Message.self, from: line)
      if message.event != nil {
        keep(try decode(QMPEvent.self, from: line))
      } else if message.id == lastID || (message.id == nil && message.error != nil) {
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
    if let index = keptEvents.firstIndex(where: isWanted) { return keptEvents.remove(at: index) }
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
      keep(event)
    }
  }

  /// The events that came before the last reply, in order, and are kept no longer. Nil when there were more than are kept.
  package func takeEvents() -> [QMPEvent]? {
    defer {
      keptEvents = []
      hasDroppedEvents = false
    }
    return hasDroppedEvents ? nil : keptEvents
  }

  private func keep(_ event: QMPEvent) {
    if keptEvents.count == Self.keptEventsMax {
      keptEvents.removeFirst()
      hasDroppedEvents = true
    }
    keptEvents.append(event)
  }
}

private struct Request: Encodable {
  var execute: String
  var arguments: JSONValue?
  var id: Int64
}

/// The first line of a conversation: who the other side is, or why it wants none.
private struct Opening: Decodable {
  var greeting: JSONValue?
  var error: Failure?

  private enum CodingKeys: String, CodingKey {
    case greeting = "QMP"
    case error
  }
}

private struct Failure: Decodable {
  var `class`: String
  var desc: String
}

/// As much of an incoming line as tells what it is.
private struct Message: Decodable {
  var id: Int64?
  var event: String?
  var error: Failure?
}

private struct Success<Reply: Decodable>: Decodable {
  var `return`: Reply
}

private func encode(_ request: Request) throws(QMPError) -> [UInt8] {
  let encoder = JSONEncoder()
  encoder.outputFormatting = [.withoutEscapingSlashes, .sortedKeys]
  do { return Array(try encoder.encode(request)) + [UInt8(ascii: "\n")] } catch {
    throw .malformed(line: "\(request.execute): \(error)")
  }
}

private func decode<Value: Decodable>(_ type: Value.Type, from line: [UInt8]) throws(QMPError) -> Value {
  do { return try JSONDecoder().decode(type, from: Data(line)) } catch {
    throw .malformed(line: text(line))
  }
}

private func text(_ line: [UInt8]) -> String { String(decoding: line, as: UTF8.self) }
