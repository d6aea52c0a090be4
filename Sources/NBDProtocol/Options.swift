internal import Bytes

/// What is wrong with an option: the error reply's type and its text.
struct OptionFault: Error {
  let type: UInt32
  let message: String

  init(_ type: UInt32, _ message: String) {
    self.type = type
    self.message = message
  }

  static let unknownExport = OptionFault(ReplyCode.unknown, "there is no export of this name")
  static let needsTLS = OptionFault(ReplyCode.tlsRequired, "this takes TLS")
  static let malformed = OptionFault(ReplyCode.invalid, "the option's data does not have its length")
}

/// The data of one option, taken from the front. Every length in it is the client's word.
struct OptionData {
  private let bytes: [UInt8]
  private var offset = 0

  /// A copy of `byteCount` bytes of `input` from `start`.
  init(_ input: RawSpan, from start: Int, byteCount: Int) {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(byteCount)
    for index in start..<start + byteCount { bytes.append(input.bigEndian(at: index)) }
    self.bytes = bytes
  }

  /// How many bytes are left.
  var remaining: Int { bytes.count - offset }

  mutating func take<Value: FixedWidthInteger & BitwiseCopyable>(
    _ type: Value.Type = Value.self
  ) throws(OptionFault) -> Value {
    guard let value = bytes.bigEndian(at: offset, as: type) else { throw .malformed }
    offset += MemoryLayout<Value>.size
    return value
  }

  /// A string as doc/proto.md ("Values") has them: UTF-8, no NUL, at most 4096 bytes.
  mutating func takeString(byteCount: Int) throws(OptionFault) -> String {
    guard byteCount <= remaining else { throw .malformed }
    guard byteCount <= Limits.stringBytesMax else {
      throw OptionFault(ReplyCode.tooBig, "a string is longer than \(Limits.stringBytesMax) bytes")
    }
    let slice = bytes[offset..<offset + byteCount]
    offset += byteCount
    guard !slice.contains(0), let text = String(validating: slice, as: UTF8.self) else {
      throw OptionFault(ReplyCode.invalid, "a string is not UTF-8 or has a NUL")
    }
    return text
  }

  func requireEnd() throws(OptionFault) {
    if remaining != 0 { throw .malformed }
  }
}

/// Writes option replies (layout in Handshake.swift).
enum OptionReply {
  static func append(
    _ option: UInt32, _ type: UInt32, to bytes: inout [UInt8], data: (inout [UInt8]) -> Void = { _ in }
  ) {
    var content: [UInt8] = []
    data(&content)
    bytes.appendBigEndian(Magic.optionReply)
    bytes.appendBigEndian(option)
    bytes.appendBigEndian(type)
    bytes.appendBigEndian(UInt32(content.count))
    bytes += content
  }

  static func ack(_ option: UInt32) -> [UInt8] {
    var reply: [UInt8] = []
    append(option, ReplyCode.ack, to: &reply)
    return reply
  }

  static func error(_ option: UInt32, _ fault: OptionFault) -> [UInt8] {
    var reply: [UInt8] = []
    append(option, fault.type, to: &reply) { $0 += fault.message.limited(to: Limits.messageBytesMax) }
    return reply
  }

  static func contexts(_ option: UInt32, _ contexts: [MetaContext]) -> [UInt8] {
    var reply: [UInt8] = []
    for context in contexts {
      append(option, ReplyCode.metaContext, to: &reply) { data in
        data.appendBigEndian(context.id)
        data += context.name.utf8
      }
    }
    return reply + ack(option)
  }
}

extension String {
  /// The UTF-8 of as many whole characters from the front as fit into `byteCount` bytes.
  func limited(to byteCount: Int) -> [UInt8] {
    if utf8.count <= byteCount { return Array(utf8) }
    // A byte that continues a character (10xxxxxx) may not become the first one that is left out.
    var end = utf8.index(utf8.startIndex, offsetBy: byteCount)
    while utf8[end] & 0b1100_0000 == 0b1000_0000 { end = utf8.index(before: end) }
    return Array(utf8[..<end])
  }
}
