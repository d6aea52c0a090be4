internal import FoundationEssentials

/// A JSON value whose shape is not known beforehand: commands, their arguments and ids on the admin socket.
package indirect enum JSONValue: Sendable, Equatable {
  case null
  case bool(Bool)
  case unsigned(UInt64)
  case signed(Int64)
  case double(Double)
  case string(String)
  case array([JSONValue])
  case object([String: JSONValue])

  /// How deep values may be nested: the decoder recurses, and our threads' stacks are small.
  package static let depthMax = 16

  /// The value that `text` holds, or nil when it is no JSON or nested deeper than `depthMax`.
  package init?(parsing text: [UInt8]) {
    guard Self.depth(of: text) <= Self.depthMax else { return nil }
    do {
      self = try JSONDecoder().decode(JSONValue.self, from: Data(text))
    } catch {
      return nil
    }
  }

  /// How deep arrays and objects are nested in `text`, without looking at anything else.
  private static func depth(of text: [UInt8]) -> Int {
    var depth = 0
    var deepest = 0
    var isInString = false
    var isEscaped = false
    for byte in text {
      if isInString {
        if isEscaped {
          isEscaped = false
        } else if byte == UInt8(ascii: "\\") {
          isEscaped = true
        } else if byte == UInt8(ascii: "\"") {
          isInString = false
        }
        continue
      }
      switch byte {
      case UInt8(ascii: "\""): isInString = true
      case UInt8(ascii: "["), UInt8(ascii: "{"):
        depth += 1
        deepest = max(deepest, depth)
      case UInt8(ascii: "]"), UInt8(ascii: "}"): depth -= 1
      default: break
      }
    }
    return deepest
  }

  /// The value that `value` encodes to.
  package init(encoding value: some Encodable) throws(ServiceError) {
    do {
      let data = try JSONEncoder().encode(value)
      self = try JSONDecoder().decode(JSONValue.self, from: data)
    } catch {
      throw .failed("a value could not be put into JSON (\(error)); please report this")
    }
  }

  /// What the value decodes to as `type`.
  package func decoded<Value: Decodable>(as type: Value.Type) throws(ServiceError) -> Value {
    do {
      return try JSONDecoder().decode(type, from: JSONEncoder().encode(self))
    } catch {
      throw .failed("the daemon's answer is not understood; is it another version of spillway?")
    }
  }

  /// The text, with members sorted by name: on one line, or indented for people.
  package func text(isPretty: Bool = false) throws(ServiceError) -> String {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    if isPretty { encoder.outputFormatting.insert(.prettyPrinted) }
    do {
      return String(decoding: try encoder.encode(self), as: UTF8.self)
    } catch {
      throw .failed("a value could not be put into JSON (\(error)); please report this")
    }
  }

  /// The member `name` of an object; nil when there is none.
  package subscript(name: String) -> JSONValue? {
    if case .object(let members) = self { members[name] } else { nil }
  }

  /// The string that the value is; nil for any other kind.
  package var string: String? {
    if case .string(let text) = self { text } else { nil }
  }
}

extension JSONValue: Codable {
  package init(from decoder: any Decoder) throws {
    let container = try decoder.singleValueContainer()
    if container.decodeNil() {
      self = .null
    } else if let value = Self.first(of: container, Bool.self) {
      self = .bool(value)
    } else if let value = Self.first(of: container, UInt64.self) {
      self = .unsigned(value)
    } else if let value = Self.first(of: container, Int64.self) {
      self = .signed(value)
    } else if let value = Self.first(of: container, Double.self) {
      self = .double(value)
    } else if let value = Self.first(of: container, String.self) {
      self = .string(value)
    } else if let value = Self.first(of: container, [JSONValue].self) {
      self = .array(value)
    } else {
      self = .object(try container.decode([String: JSONValue].self))
    }
  }

  /// The value if it is a `type`: a mismatch is an answer here, not a failure.
  private static func first<Value: Decodable>(
    of container: any SingleValueDecodingContainer, _ type: Value.Type
  ) -> Value? {
    do { return try container.decode(type) } catch { return nil }
  }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    switch self {
    case .null: try container.encodeNil()
    case .bool(let value): try container.encode(value)
    case .unsigned(let value): try container.encode(value)
    case .signed(let value): try container.encode(value)
    case .double(let value): try container.encode(value)
    case .string(let value): try container.encode(value)
    case .array(let value): try container.encode(value)
    case .object(let value): try container.encode(value)
    }
  }
}
