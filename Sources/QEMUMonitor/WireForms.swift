// What goes over a monitor's wire, of qemu, of its guest agent and of our own admin socket: one JSON object a line.

internal import FoundationEssentials

/// A command on its way.
struct Request: Encodable {
  var execute: String
  var arguments: JSONValue?
  /// Nil in dialects that do without.
  var id: Int64?
}

/// The first line of a conversation: who the other side is, or why it wants none.
struct Opening: Decodable {
  var greeting: JSONValue?
  var error: Failure?

  private enum CodingKeys: String, CodingKey {
    case greeting = "QMP"
    case error
  }
}

/// Why a command was refused.
struct Failure: Decodable {
  var `class`: String
  var desc: String
}

/// As much of an incoming line as tells what it is.
struct Message: Decodable {
  /// Ours are numbers, libvirt's are not.
  var id: JSONValue?
  var event: String?
  var error: Failure?
}

/// The answer to a command that was run.
struct Success<Reply: Decodable>: Decodable {
  var `return`: Reply
}

/// `request` as a line.
func encode(_ request: Request) throws(QMPError) -> [UInt8] {
  let encoder = JSONEncoder()
  encoder.outputFormatting = [.withoutEscapingSlashes, .sortedKeys]
  do { return Array(try encoder.encode(request)) + [UInt8(ascii: "\n")] } catch {
    throw .malformed(line: "\(request.execute): \(error)")
  }
}

/// What `line` holds, if it is of that type.
func decode<Value: Decodable>(_ type: Value.Type, from line: [UInt8]) throws(QMPError) -> Value {
  do { return try JSONDecoder().decode(type, from: Data(line)) } catch {
    throw .malformed(line: text(line))
  }
}

/// `line` for messages.
func text(_ line: some Collection<UInt8>) -> String { String(decoding: line, as: UTF8.self) }
