/// The agent in the guest of a libvirt domain, whose channel libvirt holds.
package final class LibvirtGuestAgent: GuestAgent {
  private let virsh: Virsh

  /// The agent of `domain`; arguments as for `LibvirtMonitor`.
  package init(domain: String, connection: String? = nil, virsh program: String = "virsh") {
    virsh = Virsh(program: program, connection: connection, domain: domain)
  }

  /// Has virsh ask the agent for `command`; its errors are libvirt's.
  package func execute(
    _ command: String, arguments: JSONValue?, within limit: Duration
  ) throws(QMPError) -> JSONValue {
    let request = try encode(Request(execute: command, arguments: arguments))
    // virsh keeps the time too, so that libvirt does not go on waiting; it is killed only if that fails.
    let seconds = max(limit.components.seconds, 1)
    let lines = try virsh.run(
      "qemu-agent-command", ["--timeout", "\(seconds)", text(request.dropLast())],
      within: limit + .seconds(5), awaited: "reply to \(command)")
    guard let line = lines.first else { throw .malformed(line: "nothing") }
    return try decode(Success<JSONValue>.self, from: line).return
  }
}
