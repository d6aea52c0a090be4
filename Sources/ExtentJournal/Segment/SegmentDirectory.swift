package import Bytes

// How a segment ends once nothing is appended to it any more: a directory, which repeats the header of every item, and a
// footer, which says where it is. Who has lost the index reads the directories instead of the groups, and who finds a
// group damaged learns from them what was in it. Both are for convenience: a segment without them is walked.

/// The headers of a segment's items, each with the offset of its item.
package struct SegmentDirectory: Sendable, Equatable {
  /// As on disk: for each item its offset ÷ 16 and the length of its header (u32 each), the header, and zeroes up to a
  /// multiple of 8.
  package private(set) var bytes: [UInt8] = []

  /// Of a segment without items.
  package init() {}

  /// What an entry for a header of `headerByteCount` bytes takes.
  static func entryByteCount(_ headerByteCount: Int) -> Int { (8 + headerByteCount).roundedUp(to: 8) }

  /// Adds `header`, of the item at `offset` (a multiple of 16) of the segment.
  package mutating func add(_ header: RawSpan, at offset: UInt64) {
    bytes.appendBigEndian(UInt32(offset / FrameAddress.granuleByteCount))
    bytes.appendBigEndian(UInt32(header.byteCount))
    // SAFETY: the bytes are copied inside the call.
    unsafe header.withUnsafeBytes { unsafe bytes.append(contentsOf: $0) }
    bytes.append(contentsOf: repeatElement(0, count: bytes.count.roundedUp(to: 8) - bytes.count))
  }

  /// Takes back what was added since it had `byteCount` bytes.
  mutating func shrink(to byteCount: Int) { bytes.removeSubrange(byteCount...) }

  /// Calls `body` with each header of the directory in `bytes` and the offset of its item, in the order of the segment,
  /// until it returns false.
  package static func forEach(_ bytes: RawSpan, _ body: (_ header: RawSpan, _ offset: UInt64) -> Bool) {
    var at = 0
    while at + 8 <= bytes.byteCount {
      let granule: UInt32 = bytes.bigEndian(at: at)
      let count = Int(bytes.bigEndian(at: at + 4, as: UInt32.self))
      guard count > 0, at + 8 + count <= bytes.byteCount,
        body(
          bytes.extracting(at + 8..<at + 8 + count), UInt64(granule) * FrameAddress.granuleByteCount)
      else { return }
      at += entryByteCount(count)
    }
  }

  /// What the directory and the footer take on disk together.
  var closingByteCount: Int { closingByteCount(adding: 0) }

  /// As `closingByteCount`, with `more` bytes of entries.
  func closingByteCount(adding more: Int) -> Int {
    (bytes.count + more).roundedUp(to: AlignedBuffer.alignment) + SegmentFooter.byteCount
  }

  /// The directory and `footer`, which then says where and what the directory is, as they are written to the end of the
  /// groups at `offset`.
  package func closing(_ footer: SegmentFooter, at offset: UInt64) -> AlignedBuffer {
    let buffer = AlignedBuffer(byteCount: closingByteCount)
    var target = buffer.mutableBytes
    target.zero()
    // SAFETY: bytes of UInt8 have no padding.
    let span = unsafe bytes.span.bytes
    target.copy(span, at: 0)
    var footer = footer
    footer.directoryOffset = offset
    footer.directoryByteCount = UInt64(bytes.count)
    footer.directoryChecksum = Checksum.xxh3(span, seed: footer.salt &+ offset)
    let at = buffer.byteCount - SegmentFooter.byteCount
    var last = target._mutatingExtracting(at..<buffer.byteCount)
    footer.encode(into: &last, at: offset + UInt64(at))
    return buffer
  }
}

/// The last 4 KiB of a segment that takes no more groups.
package struct SegmentFooter: Sendable, Equatable {
  /// The salt, journal and number stand here a second time, for a segment whose superblock is damaged.
  var superblock: SegmentSuperblock
  /// Where the groups end and the directory begins.
  package fileprivate(set) var directoryOffset: UInt64 = 0
  /// Bytes of the directory without the zeroes behind it.
  package fileprivate(set) var directoryByteCount: UInt64 = 0
  var directoryChecksum: UInt64 = 0
  /// The last batch of the segment; a batch that was durable when the footer was written; the last sequence and chain.
  var lastBatch: UInt64
  var durableThrough: UInt64
  var lastSequence: UInt64
  var chain: UInt64

  var salt: UInt64 { superblock.salt }

  /// Its size on disk.
  package static let byteCount = 4096
  private static let magic: UInt64 = 0x5350_5746_4F4F_5452  // SPWFOOTR

  /// The footer behind the groups that end at `last`; where the directory is becomes known with the directory.
  package init(
    superblock: SegmentSuperblock, lastBatch: UInt64, durableThrough: UInt64, lastSequence: UInt64,
    chain: UInt64
  ) {
    self.superblock = superblock
    self.lastBatch = lastBatch
    self.durableThrough = durableThrough
    self.lastSequence = lastSequence
    self.chain = chain
  }

  /// Writes the fields and the checksum to `target`, which has 4096 bytes, is zero before, and will lie at `offset`.
  func encode(into target: inout MutableRawSpan, at offset: UInt64) {
    target.storeBigEndian(Self.magic, at: 0)
    for (index, word) in [
      superblock.segment, superblock.salt, superblock.journal.high, superblock.journal.low,
      superblock.createdNanoseconds, directoryOffset, directoryByteCount, directoryChecksum, lastBatch,
      durableThrough, lastSequence, chain,
    ].enumerated() {
      target.storeBigEndian(word, at: 8 + index * 8)
    }
    if superblock.kind == .moved { target.storeBigEndian(superblock.kind.rawValue, at: 104) }
    let checksum = Checksum.xxh3(target.bytes.extracting(0..<4088), seed: salt &+ offset)
    target.storeBigEndian(checksum, at: 4088)
  }

  /// The footer in `bytes`, which lie at `offset`; nil when there is none.
  package init?(_ bytes: RawSpan, at offset: UInt64) {
    guard bytes.byteCount == Self.byteCount, bytes.bigEndian(at: 0, as: UInt64.self) == Self.magic else {
      return nil
    }
    func word(_ index: Int) -> UInt64 { bytes.bigEndian(at: 8 + index * 8) }
    guard
      Checksum.xxh3(bytes.extracting(0..<4088), seed: word(1) &+ offset)
        == bytes.bigEndian(at: 4088, as: UInt64.self), word(5) <= offset,
      word(6) <= offset - word(5)
    else { return nil }
    superblock = SegmentSuperblock(
      segment: word(0), salt: word(1), journal: JournalUUID(high: word(2), low: word(3)),
      createdNanoseconds: word(4),
      kind: SegmentKind(rawValue: bytes.bigEndian(at: 104)) ?? .fresh)
    directoryOffset = word(5)
    directoryByteCount = word(6)
    directoryChecksum = word(7)
    lastBatch = word(8)
    durableThrough = word(9)
    lastSequence = word(10)
    chain = word(11)
  }
}
