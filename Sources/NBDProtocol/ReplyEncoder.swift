package import Bytes

// Replies: doc/proto.md, "Simple reply message", "Structured reply chunk message" and, on its branch
// extension-ext-header, "Extended reply chunk message".
//
// simple                          structured chunk                extended chunk
// | at | size | what              | at | size | what              | at | size | what
// |  0 |   4  | 0x67446698        |  0 |   4  | 0x668e33ef        |  0 |   4  | 0x6e8a278c
// |  4 |   4  | error, 0 for none |  4 |   2  | flags: bit 0 DONE |  4 |   2  | flags: bit 0 DONE
// |  8 |   8  | cookie            |  6 |   2  | type              |  6 |   2  | type
// | 16 |   n  | data of a READ    |  8 |   8  | cookie            |  8 |   8  | cookie
//                                 | 16 |   4  | length n          | 16 |   8  | the request's offset
//                                 | 20 |   n  | content           | 24 |   8  | length n
//                                                                 | 32 |   n  | content
//
// content by type
// |      0 NONE             | nothing; always DONE
// |      1 OFFSET_DATA      | offset 8, data n − 8
// |      2 OFFSET_HOLE      | offset 8, size 4
// |      5 BLOCK_STATUS     | context id 4, then (length 4, flags 4) for each extent; structured only
// |      6 BLOCK_STATUS_EXT | context id 4, count 4, then (length 8, flags 8) for each extent; extended only
// | 0x8001 ERROR            | error 4, message length 2, message
// | 0x8002 ERROR_OFFSET     | as ERROR, then offset 8

/// How a connection writes its replies, as its client asked for.
package enum ReplyStyle: Sendable {
  /// A simple reply to every request.
  case simple
  /// Chunks of 32-bit lengths; simple replies where there is nothing to say but success.
  case structured
  /// Requests and chunks of 64-bit lengths, and nothing else.
  case extended
}

/// Writes the bytes of replies that stand before or beside payload; payload itself is never copied here.
package struct ReplyEncoder: Sendable {
  private let style: ReplyStyle

  /// An encoder for a connection of that style.
  package init(_ style: ReplyStyle) { self.style = style }

  /// Whether replies may be made of chunks.
  package var hasChunks: Bool { style != .simple }

  /// Success of a request that returns no data. Unless headers are extended a simple reply serves, and is shorter.
  package func appendSuccess(_ tag: RequestTag, to bytes: inout [UInt8]) {
    guard style == .extended else { return appendSimple(0, tag, to: &bytes) }
    appendNone(tag, to: &bytes)
  }

  /// Failure of any request; with chunks the message goes along.
  package func appendFailure(_ refusal: Refusal, to bytes: inout [UInt8]) {
    guard hasChunks else { return appendSimple(refusal.code.rawValue, refusal.tag, to: &bytes) }
    let message = refusal.message.limited(to: Limits.messageBytesMax)
    appendChunk(ChunkCode.error, refusal.tag, length: 6 + message.count, isLast: true, to: &bytes)
    appendError(refusal.code, message, to: &bytes)
  }

  /// Failure of a read at the byte `offset` of the export, which lies inside the request.
  package func appendFailure(_ refusal: Refusal, at offset: UInt64, to bytes: inout [UInt8]) {
    guard hasChunks else { return appendSimple(refusal.code.rawValue, refusal.tag, to: &bytes) }
    let message = refusal.message.limited(to: Limits.messageBytesMax)
    appendChunk(ChunkCode.errorOffset, refusal.tag, length: 14 + message.count, isLast: true, to: &bytes)
    appendError(refusal.code, message, to: &bytes)
    bytes.appendBigEndian(offset)
  }

  /// What precedes the whole data of a read: the data follows at once.
  package func appendWholeRead(_ range: ByteRange, _ tag: RequestTag, to bytes: inout [UInt8]) {
    guard hasChunks else { return appendSimple(0, tag, to: &bytes) }
    appendData(range, tag, isLast: true, to: &bytes)
  }

  /// What precedes the data of one piece of a read. Chunks only.
  package func appendData(_ range: ByteRange, _ tag: RequestTag, isLast: Bool, to bytes: inout [UInt8]) {
    appendChunk(ChunkCode.offsetData, tag, length: 8 + Int(range.count), isLast: isLast, to: &bytes)
    bytes.appendBigEndian(range.start)
  }

  /// A piece of a read that is all zeroes. Chunks only.
  package func appendHole(_ range: ByteRange, _ tag: RequestTag, isLast: Bool, to bytes: inout [UInt8]) {
    appendChunk(ChunkCode.offsetHole, tag, length: 12, isLast: isLast, to: &bytes)
    bytes.appendBigEndian(range.start)
    bytes.appendBigEndian(UInt32(range.count))
  }

  /// The end of a reply whose earlier chunks did not say so, or that has nothing to say. Chunks only.
  package func appendNone(_ tag: RequestTag, to bytes: inout [UInt8]) {
    appendChunk(ChunkCode.none, tag, length: 0, isLast: true, to: &bytes)
  }

  /// The extents of one metadata context. Chunks only.
  package func appendBlockStatus(
    _ extents: [BlockExtent], context: UInt32, _ tag: RequestTag, isLast: Bool, to bytes: inout [UInt8]
  ) {
    precondition(!extents.isEmpty, "block status needs an extent")
    guard style == .extended else {
      appendChunk(ChunkCode.blockStatus, tag, length: 4 + 8 * extents.count, isLast: isLast, to: &bytes)
      bytes.appendBigEndian(context)
      for extent in extents {
        // Compact requests have lengths of 32 bits, and no extent is longer than its request.
        bytes.appendBigEndian(UInt32(extent.byteCount))
        bytes.appendBigEndian(extent.flags)
      }
      return
    }
    appendChunk(
      ChunkCode.blockStatusExtended, tag, length: 8 + 16 * extents.count, isLast: isLast, to: &bytes)
    bytes.appendBigEndian(context)
    bytes.appendBigEndian(UInt32(extents.count))
    for extent in extents {
      bytes.appendBigEndian(extent.byteCount)
      bytes.appendBigEndian(UInt64(extent.flags))
    }
  }

  private func appendSimple(_ error: UInt32, _ tag: RequestTag, to bytes: inout [UInt8]) {
    bytes.appendBigEndian(Magic.simpleReply)
    bytes.appendBigEndian(error)
    bytes.appendBigEndian(tag.cookie)
  }

  private func appendChunk(
    _ type: UInt16, _ tag: RequestTag, length: Int, isLast: Bool, to bytes: inout [UInt8]
  ) {
    precondition(hasChunks, "chunks were not agreed on")
    bytes.appendBigEndian(style == .extended ? Magic.extendedReply : Magic.structuredReply)
    bytes.appendBigEndian(UInt16(isLast ? 1 : 0))
    bytes.appendBigEndian(type)
    bytes.appendBigEndian(tag.cookie)
    if style == .extended {
      bytes.appendBigEndian(tag.offset)
      bytes.appendBigEndian(UInt64(length))
    } else {
      bytes.appendBigEndian(UInt32(length))
    }
  }

  private func appendError(_ code: NBDError, _ message: [UInt8], to bytes: inout [UInt8]) {
    bytes.appendBigEndian(code.rawValue)
    bytes.appendBigEndian(UInt16(message.count))
    bytes += message
  }
}
