/// What a qemu understands, as it says itself: so versions need not be compared, and distributors may backport.
package struct QEMUSchema: Sendable {
  private let entries: [String: Entry]

  /// One command, event or type. Which members it has depends on its kind.
  fileprivate struct Entry: Decodable, Sendable {
    struct Member: Decodable, Sendable {
      var name: String?
      var type: String?
    }
    struct Variant: Decodable, Sendable { var type: String }

    var name: String
    var kind: String
    var argumentType: String?
    var elementType: String?
    var members: [Member]?
    var variants: [Variant]?
    var values: [String]?

    enum CodingKeys: String, CodingKey {
      case name, members, variants, values
      case kind = "meta-type"
      case argumentType = "arg-type"
      case elementType = "element-type"
    }
  }

  fileprivate init(_ entries: [Entry]) {
    self.entries = Dictionary(entries.map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first })
  }

  /// A qemu that knows `commands` and no more than that is known of it.
  package init(commands: [String]) {
    self.init(commands.map { Entry(name: $0, kind: "command") })
  }

  /// Whether qemu knows the command.
  package func has(_ command: String) -> Bool { entries[command]?.kind == "command" }

  /// Whether the command takes the argument `path`: names of members joined by dots, through objects, what they vary
  /// into, alternatives and the elements of arrays.
  ///
  /// A last step `member=value` asks whether the member, an enumeration, has the value:
  /// `has("transaction", argument: "actions.type=blockdev-backup")`.
  package func has(_ command: String, argument path: String) -> Bool {
    guard has(command), let argumentType = entries[command]?.argumentType else { return false }
    var types: Set = [argumentType]
    for step in path.split(separator: ".") {
      let parts = step.split(separator: "=", maxSplits: 1)
      types = objects(in: types).reduce(into: []) { found, object in
        for member in object.members ?? [] where member.name == parts[0].description {
          if let type = member.type { found.insert(type) }
        }
      }
      if parts.count == 2 {
        let value = String(parts[1])
        return types.contains { type in
          guard let entry = entries[type] else { return false }
          // Values alone before qemu 7.0, members as well since.
          return entry.values?.contains(value) ?? entry.members?.contains { $0.name == value } ?? false
        }
      }
      if types.isEmpty { return false }
    }
    return true
  }

  /// The object types that a value of one of `types` may be, or be an array of.
  private func objects(in types: Set<String>) -> [Entry] {
    var seen: Set<String> = []
    var open = Array(types)
    var found: [Entry] = []
    while let type = open.popLast() {
      guard seen.insert(type).inserted, let entry = entries[type] else { continue }
      switch entry.kind {
      case "array": open += [entry.elementType].compactMap { $0 }
      case "alternate": open += (entry.members ?? []).compactMap(\.type)
      case "object":
        found.append(entry)
        open += (entry.variants ?? []).map(\.type)
      default: break
      }
    }
    return found
  }
}

extension Monitor {
  /// Asks qemu what it understands. One that cannot say (before 2.5) tells at least its commands.
  package func schema() throws(QMPError) -> QEMUSchema {
    do throws(QMPError) {
      return QEMUSchema(try execute("query-qmp-schema", as: [QEMUSchema.Entry].self))
    } catch .refused(_, "CommandNotFound", _) {
      let commands = try execute("query-commands").array?.compactMap { $0["name"]?.string }
      return QEMUSchema(commands: commands ?? [])
    }
  }
}
