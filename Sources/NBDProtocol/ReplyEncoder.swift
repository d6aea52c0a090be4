package import Bytes

// Replies: doc/proto.md, "Simple reply message" and "Structured reply chunk message".
//
// simple                                 structured chunk
// | at | size | what                     | at | size | what
// |  0 |   4  | 0x67446698               |  0 |   4  | 0x668e33ef
// |  4 |   4  | error, 0 for none        |  4 |   2  | flags: bit 0 DONE
// |  8 |   8  | cookie                   |  6 |   2  | type
// | 16 |   n  | data of a READ           |  8 |   8  | cookie
//                                        | 16 |   4  | length n
//                                        | 20 |   n  | content
//
// content by type
// |      0 NONE         | nothing; always DONE
// |      1 OFFSET_DATA  | offset 8, data n − 8
// |      2 OFFSET_HOLE  | offset 8, size 4
// |      5 BLOCK_STATUS | context id 4, then (length 4, flags 4) for each extent
// | 0x8001 ERROR        | error 4, message length 2, message
// | 0x8002 ERROR_OFFSET | as ERROR, then offset 8

/// Writes the bytes of replies that stand before or beside payload; payload itself is never copied here.
package struct ReplyEncoder: Sendable {
  /// Whether structured replies were negotiated.
  package let structured: Bool

  /// An encoder for a connection with or without structured replies.
  package init(structured: Bool) {
    self.structured = structured
  }

  /// Success of a request that returns no data. A simple reply serves in either mode, and is shorter.
  package func appendSuccess(cookie: UInt64, to bytes: inout [UInt8]) {
    appendSimple(0, cookie, to: &bytes)
  }

  /// Failure of any request; with structured replies the message goes along.
  package func appendFailure(_ refusal: Refusal, to bytes: inout [UInt8]) {
    guard structured else { return appendSimple(refusal.code.rawValue, refusal.cookie, to: &bytes) }
    let message = refusal.message.limited(to: Limits.messageBytesMax)
    appendChunk(ChunkCode.error, refusal.cookie, length: 6 + message.count, isLast: true, to: &bytes)
    appendError(refusal.code, message, to: &bytes)
  }

  /// Failure of a read at the byte `offset` of the export, which lies inside the request.
  package func appendFailure(_ refusal: Refusal, at offset: UInt64, to bytes: inout [UInt8]) {
    guard structured else { return appendSimple(refusal.code.rawValue, refusal.cookie, to: &bytes) }
    let message = refusal.message.limited(to: Limits.messageBytesMax)
    appendChunk(ChunkCode.errorOffset, refusal.cookie, length: 14 + message.count, isLast: true, to: &bytes)
    appendError(refusal.code, message, to: &bytes)
    bytes.appendBigEndian(offset)
  }

  /// What precedes the whole data of a read: the data follows at once.
  package func appendWholeRead(_ range: ByteRange, cookie: UInt64, to bytes: inout [UInt8]) {
    guard structured else { return appendSimple(0, cookie, to: &bytes) }
    appendData(range, cookie: cookie, isLast: true, to: &bytes)
  }

  /// What precedes the data of one piece of a read. Structured replies only.
  package func appendData(_ range: ByteRange, cookie: UInt64, isLast: Bool, to bytes: inout [UInt8]) {
    precondition(structured, "chunks need structured replies")
    appendChunk(ChunkCode.offsetData, cookie, length: 8 + Int(range.count), isLast: isLast, to: &bytes)
    bytes.appendBigEndian(range.start)
  }

  /// A piece of a read that is all zeroes. Structured replies only.
  package func appendHole(_ range: ByteRange, cookie: UInt64, isLast: Bool, to bytes: inout [UInt8]) {
    precondition(structured, "chunks need structured replies")
    appendChunk(ChunkCode.offsetHole, cookie, length: 12, isLast: isLast, to: &bytes)
    bytes.appendBigEndian(range.start)
    bytes.appendBigEndian(UInt32(range.count))
  }

  /// The end of a reply whose earlier chunks did not say so. Structured replies only.
  package func appendNone(cookie: UInt64, to bytes: inout [UInt8]) {
    precondition(structured, "chunks need structured replies")
    appendChunk(ChunkCode.none, cookie, length: 0, isLast: true, to: &bytes)
  }

  /// The extents of one metadata context. Structured replies only.
  package func appendBlockStatus(
    _ extents: [BlockExtent], context: UInt32, cookie: UInt64, isLast: Bool, to bytes: inout [UInt8]
  ) {
    precondition(structured && !extents.isEmpty, "block status needs structured replies and an extent")
    appendChunk(
      ChunkCode.blockStatus, cookie, length: 4 + 8 * extents.count, isLast: isLast, to: &bytes)
    bytes.appendBigEndian(context)
    for extent in extents {
      bytes.appendBigEndian(UInt32(extent.byteCount))
      bytes.appendBigEndian(extent.flags)
    }
  }

  private func appendSimple(_ error: UInt32, _ cookie: UInt64, to bytes: inout [UInt8]) {
    bytes.appendBigEndian(Magic.simpleReply)
    bytes.appendBigEndian(error)
    bytes.appendBigEndian(cookie)
  }

  private func appendChunk(
    _ type: UInt16, _ cookie: UInt64, length: Int, isLast: Bool, to bytes: inout [UInt8]
  ) {
    bytes.appendBigEndian(Magic.structuredReply)
    bytes.appendBigEndian(UInt16(isLast ? 1 : 0))
    bytes.appendBigEndian(type)
    bytes.appendBigEndian(cookie)
    bytes.appendBigEndian(UInt32(length))
  }

  private func appendError(_ code: NBDError, _ message: [UInt8], to bytes: inout [UInt8]) {
    bytes.appendBigEndian(code.rawValue)
    bytes.appendBigEndian(UInt16(message.count))
    bytes += message
  }
}
