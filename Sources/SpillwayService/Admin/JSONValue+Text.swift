internal import FoundationEssentials
package import QEMUMonitor

// Lines of the admin socket and the output of --json, to values and back.

extension JSONValue {
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
      self = try JSONDecoder().decode(JSONValue.self, from: JSONEncoder().encode(value))
    } catch {
      throw .failed("a value could not be put into JSON (\(error)); please report this")
    }
  }

  /// What the value decodes to as `type`.
  package func decoded<Value: Decodable>(as type: Value.Type) throws(ServiceError) -> Value {
    do {
      return try JSONDecoder().decode(type, from: JSONEncoder().encode(self))
    } catch {
      throw .notUnderstood
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
}
