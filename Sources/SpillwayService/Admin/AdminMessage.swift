// What goes over the admin socket, without the socket: QMP's dialect, one JSON object a line.
// docs/decisions/0001-admin-socket-speaks-qmp.md says why.

package import QEMUMonitor

/// The version of this program, as `--version` and the greeting of the admin socket tell it.
package enum Version {
  static let major: Int64 = 0
  static let minor: Int64 = 1
  static let patch: Int64 = 0
  /// All three, with dots.
  package static let text = "\(major).\(minor).\(patch)"
}

/// A command that came over the admin socket.
package struct AdminRequest: Sendable, Equatable {
  /// What to do: `status`, `complete` and others.
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
}

/// A line that is no request.
package struct AdminRefusal: Error, Sendable, Equatable {
  var message: String
  var id: JSONValue?

  init(_ message: String, id: JSONValue? = nil) {
    self.message = message
    self.id = id
  }
}

/// What goes back to the client.
enum AdminReply {
  /// The first line of every connection.
  static var greeting: JSONValue {
    [
      "QMP": [
        "version": [
          "spillway": [
            "major": .integer(Version.major), "minor": .integer(Version.minor),
            "micro": .integer(Version.patch),
          ], "package": .string("spillway \(Version.text)"),
        ], "capabilities": [],
      ]
    ]
  }

  /// The work is done.
  static func success(_ value: JSONValue, id: JSONValue?) -> JSONValue {
    object(["return": value], id: id)
  }

  /// The work is not done. The error's class is the word of the exit status that a tool should end with.
  static func failure(_ error: ServiceError, id: JSONValue?) -> JSONValue {
    object(["error": ["class": .string(error.status.word), "desc": .string(error.message)]], id: id)
  }

  private static func object(_ members: [String: JSONValue], id: JSONValue?) -> JSONValue {
    var members = members
    members["id"] = id
    return .object(members)
  }
}
