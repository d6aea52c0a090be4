/// The program in the guest that quiets its filesystems. For one thread at a time.
package protocol GuestAgent: AnyObject {
  /// Asks the agent for `command` and returns what came back within `limit`.
  @discardableResult
  func execute(_ command: String, arguments: JSONValue?, within limit: Duration) throws(QMPError) -> JSONValue
}

extension GuestAgent {
  /// Has all filesystems of the guest write out what they hold and write nothing more; how many. They stay so until
  /// `thaw`, and the guest's programs that write are stuck: so briefly.
  @discardableResult
  package func freeze(within limit: Duration = .seconds(30)) throws(QMPError) -> Int64 {
    try execute("guest-fsfreeze-freeze", arguments: nil, within: limit).integer ?? 0
  }

  /// Lets the guest's filesystems write again; how many. Harmless when none is frozen.
  @discardableResult
  package func thaw(within limit: Duration = .seconds(30)) throws(QMPError) -> Int64 {
    try execute("guest-fsfreeze-thaw", arguments: nil, within: limit).integer ?? 0
  }

  /// Whether any filesystem of the guest is frozen.
  package func isFrozen(within limit: Duration = .seconds(5)) throws(QMPError) -> Bool {
    try execute("guest-fsfreeze-status", arguments: nil, within: limit).string == "frozen"
  }
}

extension Monitor {
  /// The unix socket at which qemu offers the guest's agent, if it does: of the character devices the one that calls
  /// itself so. Whether an agent runs in the guest nobody says.
  package func guestAgentSocket() throws(QMPError) -> String? {
    let devices = try execute("query-chardev").array ?? []
    for device in devices {
      let (label, filename) = (device["label"]?.string ?? "", device["filename"]?.string ?? "")
      let isAgent = ["qga", "guest_agent", "guest-agent"].contains { word in
        label.contains(word) || filename.contains(word)
      }
      if isAgent, let path = Self.socketPath(of: filename) { return path }
    }
    return nil
  }

  /// The path in `unix:/path,server=on` or `disconnected:unix:/path,server=on`; nil for what is no listening unix socket.
  private static func socketPath(of filename: String) -> String? {
    var rest = Substring(filename)
    if rest.hasPrefix("disconnected:") { rest = rest.dropFirst("disconnected:".count) }
    guard rest.hasPrefix("unix:"), let options = rest.firstRange(of: ",server") else { return nil }
    return String(rest[..<options.lowerBound].dropFirst("unix:".count))
  }
}
