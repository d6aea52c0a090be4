// libvirt owns the monitors of its domains and qemu serves one client a socket, so we speak through libvirt:
// `virsh qemu-monitor-command` for each command, one `virsh qemu-monitor-event --loop` for the events. A command costs
// some 20 ms that way. Events come over another road than answers, so an event may follow the answer that it explains;
// the verbs ask again and do not rely on one.

/// A conversation with the monitor of a libvirt domain. For one thread at a time.
package final class LibvirtMonitor: Monitor {
  /// How long virsh may take over a command; nil is for ever.
  package var timeout: Duration?

  private let virsh: Virsh
  private var listener: ChildProgram
  private var keptEvents = KeptEvents()

  /// Reaches the running domain `domain` (name, id or UUID) of the libvirt at `connection`, a libvirt URI (nil: virsh's
  /// own choice), with the program `virsh`.
  package init(
    domain: String, connection: String? = nil, virsh program: String = "virsh",
    timeout: Duration? = .seconds(30)
  ) throws(QMPError) {
    virsh = Virsh(program: program, connection: connection, domain: domain)
    self.timeout = timeout
    listener = try Self.listen(virsh)
    // A domain that is absent or off is found now, in libvirt's words.
    try execute("query-version")
  }

  /// Begins to listen anew: the listener ends with libvirt's daemon.
  package func reconnect() throws(QMPError) {
    listener = try Self.listen(virsh)
    keptEvents.removeAll()
    try execute("query-version")
  }

  /// Has virsh send a command, and decodes what came back.
  package func execute<Reply: Decodable>(
    _ command: String, arguments: JSONValue?, as type: Reply.Type
  ) throws(QMPError) -> Reply {
    let request = try encode(Request(execute: command, arguments: arguments))
    let lines = try virsh.run(
      "qemu-monitor-command", [text(request.dropLast())], within: timeout, awaited: "reply to \(command)")
    guard let line = lines.first else { throw .malformed(line: "nothing") }
    if let error = try decode(Message.self, from: line).error {
      throw .refused(command: command, class: error.class, description: error.desc)
    }
    return try decode(Success<Reply>.self, from: line).return
  }

  /// The first event, kept or to come, that `isWanted` accepts; as for any monitor. Throws when nobody listens any more.
  package func nextEvent(
    within timeout: Duration, where isWanted: (QMPEvent) -> Bool
  ) throws(QMPError) -> QMPEvent? {
    if let event = keptEvents.take(where: isWanted) { return event }
    let deadline = ContinuousClock.now + timeout
    while true {
      let line: [UInt8]
      do throws(QMPError) {
        line = try listener.output.readLine(until: deadline, awaited: "event")
      } catch .timedOut {
        return nil
      } catch .closed {
        throw .programFailed(program: virsh.program, description: listener.complaint())
      }
      guard let event = try Self.event(text(line)) else { continue }
      if isWanted(event) { return event }
      keptEvents.keep(event)
    }
  }

  /// The event in a line of virsh, `event NAME at SECONDS for domain 'DOMAIN': {…}`; nil when it is none, as its last
  /// word.
  package static func event(_ line: String) throws(QMPError) -> QMPEvent? {
    guard line.hasPrefix("event "), let end = line.firstRange(of: " at ") else { return nil }
    let name = String(line[line.index(line.startIndex, offsetBy: "event ".count)..<end.lowerBound])
    guard let domain = line[end.upperBound...].firstRange(of: " for domain ") else { return nil }
    // A domain may be called anything; what is said of it begins with a brace, or is `<null>`.
    guard let data = line[domain.upperBound...].firstRange(of: ": {") else { return QMPEvent(name: name) }
    let said = line[line.index(before: data.upperBound)...]
    return QMPEvent(name: name, data: try decode(JSONValue.self, from: Array(said.utf8)))
  }

  private static func listen(_ virsh: Virsh) throws(QMPError) -> ChildProgram {
    try virsh.start("qemu-monitor-event", ["--loop"])
  }
}
