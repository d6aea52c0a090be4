/// A JSON object whose members are strings, whole numbers or null: what a seal is. Written by hand, for the engine does
/// without Foundation. Members keep their order, so that the same object is always the same bytes.
struct FlatJSON: Equatable {
  enum Value: Equatable {
    case null
    case number(UInt64)
    case string(String)
  }

  private(set) var members: [(name: String, value: Value)] = []

  static func == (a: FlatJSON, b: FlatJSON) -> Bool {
    a.members.elementsEqual(b.members) { $0.name == $1.name && $0.value == $1.value }
  }

  init() {}

  /// The first member of that name.
  subscript(name: String) -> Value? { members.first { $0.name == name }?.value }

  func string(_ name: String) -> String? {
    if case .string(let text)? = self[name] { text } else { nil }
  }

  func number(_ name: String) -> UInt64? {
    if case .number(let value)? = self[name] { value } else { nil }
  }

  mutating func add(_ name: String, _ value: Value) { members.append((name, value)) }

  // MARK: - Text

  var text: [UInt8] {
    var text = "{"
    for (index, member) in members.enumerated() {
      if index > 0 { text += "," }
      text += Self.quoted(member.name) + ":"
      switch member.value {
      case .null: text += "null"
      case .number(let value): text += String(value)
      case .string(let value): text += Self.quoted(value)
      }
    }
    return Array((text + "}").utf8)
  }

  private static func quoted(_ text: String) -> String {
    var quoted = "\""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"": quoted += "\\\""
      case "\\": quoted += "\\\\"
      case _ where scalar.value < 32:
        let digits = String(scalar.value, radix: 16)
        quoted += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
      default: quoted.unicodeScalars.append(scalar)
      }
    }
    return quoted + "\""
  }

  /// The object that `text` is; nil when it is none of this kind.
  init?(_ text: [UInt8]) {
    guard let valid = String(validating: text, as: UTF8.self) else { return nil }
    var scanner = Scanner(rest: valid.unicodeScalars[...])
    guard let members = scanner.object(), scanner.isAtEnd else { return nil }
    self.members = members
  }

  private struct Scanner {
    var rest: Substring.UnicodeScalarView

    private mutating func skipSpace() { rest = rest.drop { " \t\r\n".unicodeScalars.contains($0) } }

    private mutating func take(_ scalar: Unicode.Scalar) -> Bool {
      skipSpace()
      guard rest.first == scalar else { return false }
      rest.removeFirst()
      return true
    }

    var isAtEnd: Bool { rest.allSatisfy { " \t\r\n".unicodeScalars.contains($0) } }

    mutating func object() -> [(name: String, value: Value)]? {
      guard take("{") else { return nil }
      var members: [(name: String, value: Value)] = []
      if take("}") { return members }
      repeat {
        guard let name = string(), take(":"), let value = value() else { return nil }
        members.append((name, value))
      } while take(",")
      return take("}") ? members : nil
    }

    private mutating func value() -> Value? {
      skipSpace()
      if rest.first == "\"" { return string().map { .string($0) } }
      if rest.starts(with: "null".unicodeScalars) {
        rest.removeFirst(4)
        return .null
      }
      let digits = rest.prefix { ("0"..."9").contains($0) }
      rest.removeFirst(digits.count)
      return UInt64(String(digits)).map { .number($0) }
    }

    private mutating func string() -> String? {
      guard take("\"") else { return nil }
      var text = ""
      while let scalar = rest.popFirst() {
        switch scalar {
        case "\"": return text
        case "\\":
          guard let escaped = escape() else { return nil }
          text.unicodeScalars.append(escaped)
        default: text.unicodeScalars.append(scalar)
        }
      }
      return nil
    }

    private mutating func escape() -> Unicode.Scalar? {
      switch rest.popFirst() {
      case "\""?: return "\""
      case "\\"?: return "\\"
      case "/"?: return "/"
      case "b"?: return "\u{8}"
      case "f"?: return "\u{C}"
      case "n"?: return "\n"
      case "r"?: return "\r"
      case "t"?: return "\t"
      case "u"?:
        let digits = rest.prefix(4)
        guard digits.count == 4, let value = UInt32(String(digits), radix: 16) else { return nil }
        rest.removeFirst(4)
        return Unicode.Scalar(value)
      default: return nil
      }
    }
  }
}
