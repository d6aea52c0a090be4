// What goes over the admin socket, without the socket: QMP's dialect, one JSON object a line.
// docs/decisions/0001-admin-socket-speaks-qmp.md says why.

/// The version of this program, as `--version` and the greeting of the admin socket tell it.
package enum Version {
  package static let major = 0
  package static let minor = 1
  package static let patch = 0
  /// All three, with dots.
  package static let text = "\(major).\(minor).\(patch)"
}

/// A command that came over the admin socket.
package struct AdminRequest: Sendable, Equatable {
  /// What to do: `status`, `complete`, …
  package var command: String
  /// The command's arguments.
  package var arguments: [String: JSONValue]
  /// What the client wants to see again in the reply.
  package var id: JSONValue?

  /// A request; `id` is optional in this dialect.
  package init(_ command: String, arguments: [String: JSONValue] = [:], id: JSONValue? = nil) {
    self.command = command
    self.arguments = arguments
    self.id = id
  }

  /// The string argument `name`.
  package func string(_ name: String) throws(ServiceError) -> String {
    guard let text = arguments[name]?.string else {
      throw .usage("the command \(command) needs the argument \"\(name)\", a string")
    }
    return text
  }

  /// Parses a line. A failure still carries the id if there was one to be found.
  package static func parse(_ line: [UInt8]) -> Result<AdminRequest, AdminRefusal> {
    guard let value = JSONValue(parsing: line), case .object(let members) = value else {
      return .failure(
        AdminRefusal("a line holds one JSON object, not nested deeper than \(JSONValue.depthMax)"))
    }
    let id = members["id"]
    guard let command = members["execute"]?.string else {
      return .failure(AdminRefusal("the object needs a member \"execute\", a string", id: id))
    }
    switch members["arguments"] {
    case nil: return .success(AdminRequest(command, id: id))
    case .object(let arguments): return .success(AdminRequest(command, arguments: arguments, id: id))
    default: return .failure(AdminRefusal("\"arguments\" is an object", id: id))
    }
  }

  /// The request as a line's JSON.
  package var json: JSONValue {
    var members: [String: JSONValue] = ["execute": .string(command)]
    if !arguments.isEmpty { members["arguments"] = .object(arguments) }
    members["id"] = id
    return .object(members)
  }
}

/// A line that is no request.
package struct AdminRefusal: Error, Sendable, Equatable {
  package var message: String
  package var id: JSONValue?

  package init(_ message: String, id: JSONValue? = nil) {
    self.message = message
    self.id = id
  }
}

/// What goes back to the client.
package enum AdminReply {
  /// The first line of every connection.
  package static var greeting: JSONValue {
    let version: JSONValue = .object([
      "major": .unsigned(UInt64(Version.major)), "minor": .unsigned(UInt64(Version.minor)),
      "micro": .unsigned(UInt64(Version.patch)),
    ])
    return .object([
      "QMP": .object([
        "version": .object(["spillway": version, "package": .string("spillway \(Version.text)")]),
        "capabilities": .array([]),
      ])
    ])
  }

  /// The work is done.
  package static func success(_ value: JSONValue, id: JSONValue?) -> JSONValue {
    object(["return": value], id: id)
  }

  /// The work is not done. `kind` goes beyond QMP: the word of the exit status that a tool should end with.
  package static func failure(_ error: ServiceError, id: JSONValue?) -> JSONValue {
    let members: [String: JSONValue] = [
      "class": .string("GenericError"), "desc": .string(error.message), "kind": .string(error.status.word),
    ]
    return object(["error": .object(members)], id: id)
  }

  private static func object(_ members: [String: JSONValue], id: JSONValue?) -> JSONValue {
    var members = members
    members["id"] = id
    return .object(members)
  }

  /// What a reply says: the returned value, or the error that the daemon reported.
  package static func outcome(of reply: JSONValue) throws(ServiceError) -> JSONValue {
    if let error = reply["error"] {
      let status = error["kind"]?.string.map { ExitStatus(word: $0) } ?? .failed
      throw ServiceError(status, error["desc"]?.string ?? "the daemon reported an error without words")
    }
    guard let value = reply["return"] else {
      throw .failed("the daemon's answer is not understood; is it another version of spillway?")
    }
    return value
  }
}
