package import Bytes

// The bytes of a segment (docs/format.md). Pure: spans in, values out, and the other way round. A value read from
// disk is believed only when its checksum, seeded by the segment's salt and the place, is right.

/// Feature bits of this version: none of any kind is known yet.
enum FormatVersion {
  static let major: UInt16 = 1
  static let minor: UInt16 = 0

  /// Whether this version may use a file of that version with those feature bits.
  ///
  /// A file that a newer version allows to be read, but not written, is refused like one that it does not: what opens
  /// a journal here may have to recover it.
  static func isKnown(major: UInt16, incompatible: UInt32, readOnlyCompatible: UInt32) -> Bool {
    major == Self.major && incompatible == 0 && readOnlyCompatible == 0
  }
}

/// The first 4 KiB of a segment.
package struct SegmentSuperblock: Equatable, Sendable {
  var segment: UInt64
  var salt: UInt64
  var journal: JournalUUID
  var createdNanoseconds: UInt64

  /// Its size on disk, and where the first group begins.
  package static let byteCount = 4096
  private static let magic: UInt64 = 0x5350_5753_4547_4D54  // SPWSEGMT

  /// Writes the fields and the checksum; `target` has 4096 bytes and is zero before.
  package func encode(into target: inout MutableRawSpan) {
    target.storeBigEndian(Self.magic, at: 0)
    target.storeBigEndian(FormatVersion.major, at: 8)
    target.storeBigEndian(FormatVersion.minor, at: 10)
    target.storeBigEndian(segment, at: 24)
    target.storeBigEndian(salt, at: 32)
    target.storeBigEndian(journal.high, at: 40)
    target.storeBigEndian(journal.low, at: 48)
    target.storeBigEndian(createdNanoseconds, at: 56)
    target.storeBigEndian(UInt8(1), at: 64)
    let checksum = Checksum.xxh3(target.bytes.extracting(0..<4088), seed: 0)
    target.storeBigEndian(checksum, at: 4088)
  }

  /// The superblock of a fresh segment, with a random `salt`.
  package init(segment: UInt64, salt: UInt64, journal: JournalUUID, createdNanoseconds: UInt64) {
    self.segment = segment
    self.salt = salt
    self.journal = journal
    self.createdNanoseconds = createdNanoseconds
  }

  /// Throws a sentence that says what is wrong with the superblock.
  package init(_ bytes: RawSpan) throws(FormatFlaw) {
    // Its fields lie in the first sector and its checksum in the last. One of them all zero in a new file means that
    // it was never written; a superblock that was whole once does not come to look like that.
    guard bytes.byteCount >= Self.byteCount, !bytes.extracting(0..<512).isAllZero,
      !bytes.extracting(3584..<4096).isAllZero
    else { throw FormatFlaw("has no segment superblock", isTorn: true) }
    guard bytes.bigEndian(at: 0, as: UInt64.self) == Self.magic else {
      throw FormatFlaw("has no segment superblock")
    }
    guard
      Checksum.xxh3(bytes.extracting(0..<4088), seed: 0) == bytes.bigEndian(at: 4088, as: UInt64.self)
    else { throw FormatFlaw("has a damaged superblock") }
    let major: UInt16 = bytes.bigEndian(at: 8)
    guard
      FormatVersion.isKnown(
        major: major, incompatible: bytes.bigEndian(at: 12), readOnlyCompatible: bytes.bigEndian(at: 16))
    else { throw FormatFlaw("was written by a newer version") }
    segment = bytes.bigEndian(at: 24)
    salt = bytes.bigEndian(at: 32)
    journal = JournalUUID(high: bytes.bigEndian(at: 40), low: bytes.bigEndian(at: 48))
    createdNanoseconds = bytes.bigEndian(at: 56)
  }
}

/// What is wrong with bytes that were read, as the end of a sentence about them.
package struct FormatFlaw: Error {
  var sentence: String
  /// Whether a crash can explain it: the bytes were never written as a whole.
  var isTorn: Bool

  init(_ sentence: String, isTorn: Bool = false) {
    self.sentence = sentence
    self.isTorn = isTorn
  }
}

/// A piece of a frame: which sectors, and the sequence of the record that brought them.
package struct FrameExtent: Equatable, Sendable {
  var range: SectorRange
  var sequence: UInt64

  /// An extent whose `range` has at most 512 sectors and starts below 2⁴⁸.
  package init(range: SectorRange, sequence: UInt64) {
    self.range = range
    self.sequence = sequence
  }

  static let byteCount = 16
}

/// How a frame's bytes are stored.
package enum Codec: UInt8, Sendable {
  case raw = 0
  case zstd = 1
}

/// The header of a frame item.
package struct FrameHeader: Equatable, Sendable {
  var codec: Codec
  var level: Int8
  var layer: LayerKey
  var storedByteCount: Int
  var payloadChecksum: UInt64
  var extents: [FrameExtent]

  static let magic: UInt32 = 0x5350_5746  // SPWF
  static let fixedByteCount = 40
  static let rawBytesMax = 256 << 10

  var rawByteCount: Int { extents.reduce(0) { $0 + Int($1.range.byteCount) } }
  /// Bytes of the header and its extents, without what is stored.
  package var byteCount: Int { Self.fixedByteCount + extents.count * FrameExtent.byteCount }
  /// Header, extents and stored bytes, without padding.
  package var itemByteCount: Int { byteCount + storedByteCount }

  /// Bytes of the header of a frame with `extents` extents.
  package static func byteCount(extents: Int) -> Int { fixedByteCount + extents * FrameExtent.byteCount }

  /// Writes the header to the start of `target`; `seed` is the segment's salt plus the item's offset. Returns the
  /// header's checksum, for the chain.
  package func encode(into target: inout MutableRawSpan, seed: UInt64) -> UInt64 {
    target.storeBigEndian(Self.magic, at: 0)
    target.storeBigEndian(codec.rawValue, at: 4)
    target.storeBigEndian(level, at: 5)
    target.storeBigEndian(UInt16(extents.count), at: 6)
    target.storeBigEndian(layer.disk.number, at: 8)
    target.storeBigEndian(layer.generation.number, at: 12)
    target.storeBigEndian(UInt32(rawByteCount), at: 16)
    target.storeBigEndian(UInt32(storedByteCount), at: 20)
    target.storeBigEndian(payloadChecksum, at: 24)
    var at = Self.fixedByteCount
    for extent in extents {
      target.storeBigEndian(extent.range.start << 16 | extent.range.count, at: at)
      target.storeBigEndian(extent.sequence, at: at + 8)
      at += FrameExtent.byteCount
    }
    let checksum = itemChecksum(target.bytes, fixed: 32, from: Self.fixedByteCount, to: at, seed: seed)
    target.storeBigEndian(checksum, at: 32)
    return checksum
  }

  /// Unchecked: 1 to 512 extents, together at most `rawBytesMax`.
  package init(
    codec: Codec, level: Int8, layer: LayerKey, storedByteCount: Int, payloadChecksum: UInt64,
    extents: [FrameExtent]
  ) {
    self.codec = codec
    self.level = level
    self.layer = layer
    self.storedByteCount = storedByteCount
    self.payloadChecksum = payloadChecksum
    self.extents = extents
  }

  /// Reads the header at the start of `bytes`. Nil when it is not one, or not whole.
  package init?(_ bytes: RawSpan, seed: UInt64) {
    guard bytes.byteCount >= Self.fixedByteCount, bytes.bigEndian(at: 0, as: UInt32.self) == Self.magic,
      let codec = Codec(rawValue: bytes.bigEndian(at: 4))
    else { return nil }
    let count = Int(bytes.bigEndian(at: 6, as: UInt16.self))
    let end = Self.byteCount(extents: count)
    guard count >= 1, count <= 512, bytes.byteCount >= end,
      itemChecksum(bytes, fixed: 32, from: Self.fixedByteCount, to: end, seed: seed)
        == bytes.bigEndian(at: 32, as: UInt64.self)
    else { return nil }
    self.codec = codec
    level = bytes.bigEndian(at: 5)
    layer = LayerKey(
      disk: DiskID(number: bytes.bigEndian(at: 8)), generation: GenerationID(number: bytes.bigEndian(at: 12)))
    storedByteCount = Int(bytes.bigEndian(at: 20, as: UInt32.self))
    payloadChecksum = bytes.bigEndian(at: 24)
    extents = []
    extents.reserveCapacity(count)
    for at in stride(from: Self.fixedByteCount, to: end, by: FrameExtent.byteCount) {
      let packed: UInt64 = bytes.bigEndian(at: at)
      extents.append(
        FrameExtent(
          range: SectorRange(start: packed >> 16, count: packed & 0xFFFF),
          sequence: bytes.bigEndian(at: at + 8)))
    }
    guard rawByteCount == Int(bytes.bigEndian(at: 16, as: UInt32.self)), rawByteCount <= Self.rawBytesMax,
      storedByteCount <= rawByteCount
    else { return nil }
  }
}

/// The header and body of a record item.
package enum RecordItem {
  static let magic: UInt32 = 0x5350_5752  // SPWR
  static let fixedByteCount = 48

  /// Bytes of the item without padding.
  package static func byteCount(_ record: Record) -> Int { fixedByteCount + record.body.count }

  /// Writes `record` to the start of `target` and returns its checksum, for the chain.
  package static func encode(_ record: Record, into target: inout MutableRawSpan, seed: UInt64) -> UInt64 {
    target.storeBigEndian(magic, at: 0)
    target.storeBigEndian(record.kind.rawValue, at: 4)
    target.storeBigEndian(UInt8(0), at: 5)
    target.storeBigEndian(UInt16(record.body.count), at: 6)
    target.storeBigEndian(record.layer.disk.number, at: 8)
    target.storeBigEndian(record.layer.generation.number, at: 12)
    target.storeBigEndian(record.sequence, at: 16)
    target.storeBigEndian(record.range.start, at: 24)
    target.storeBigEndian(record.range.count, at: 32)
    for (index, byte) in record.body.enumerated() {
      target.storeBytes(of: byte, toByteOffset: fixedByteCount + index, as: UInt8.self)
    }
    let end = fixedByteCount + record.body.count
    let checksum = itemChecksum(target.bytes, fixed: 40, from: fixedByteCount, to: end, seed: seed)
    target.storeBigEndian(checksum, at: 40)
    return checksum
  }

  /// The record at the start of `bytes` and its checksum, or nil.
  package static func decode(_ bytes: RawSpan, seed: UInt64) -> (record: Record, checksum: UInt64)? {
    guard bytes.byteCount >= fixedByteCount, bytes.bigEndian(at: 0, as: UInt32.self) == magic,
      let kind = RecordKind(rawValue: bytes.bigEndian(at: 4)), kind != .data
    else { return nil }
    let end = fixedByteCount + Int(bytes.bigEndian(at: 6, as: UInt16.self))
    let checksum: UInt64 = bytes.bigEndian(at: 40)
    guard bytes.byteCount >= end,
      itemChecksum(bytes, fixed: 40, from: fixedByteCount, to: end, seed: seed) == checksum
    else { return nil }
    let start: UInt64 = bytes.bigEndian(at: 24)
    let (last, overflow) = start.addingReportingOverflow(bytes.bigEndian(at: 32))
    guard !overflow else { return nil }
    let record = Record(
      kind: kind,
      layer: LayerKey(
        disk: DiskID(number: bytes.bigEndian(at: 8)),
        generation: GenerationID(number: bytes.bigEndian(at: 12))),
      sequence: bytes.bigEndian(at: 16), range: SectorRange(start: start, end: last),
      body: (fixedByteCount..<end).map { bytes.bigEndian(at: $0) })
    return (record, checksum)
  }
}

/// The commit record that ends a group.
package struct CommitRecord: Equatable, Sendable {
  var batch: UInt64
  var firstSequence: UInt64
  var lastSequence: UInt64
  /// A batch known to be durable when this one was written.
  package var durableThrough: UInt64
  /// From the start of the group to the end of this record.
  package var groupByteCount: UInt64
  var timeNanoseconds: UInt64
  var chain: UInt64

  static let magic: UInt32 = 0x5350_5743  // SPWC
  /// Its size, which is also its share of the group: 80 is a multiple of 16.
  package static let byteCount = 80

  /// Writes all 80 bytes, as part 1 of 1; `seed` is the segment's salt plus the record's offset.
  package func encode(into target: inout MutableRawSpan, seed: UInt64) {
    target.storeBigEndian(Self.magic, at: 0)
    target.storeBigEndian(UInt16(1), at: 4)
    target.storeBigEndian(UInt16(1), at: 6)
    target.storeBigEndian(batch, at: 8)
    target.storeBigEndian(batch - 1, at: 16)
    target.storeBigEndian(firstSequence, at: 24)
    target.storeBigEndian(lastSequence, at: 32)
    target.storeBigEndian(durableThrough, at: 40)
    target.storeBigEndian(groupByteCount, at: 48)
    target.storeBigEndian(timeNanoseconds, at: 56)
    target.storeBigEndian(chain, at: 64)
    target.storeBigEndian(Checksum.xxh3(target.bytes.extracting(0..<72), seed: seed), at: 72)
  }

  /// The record of a group that holds its batch alone; the batch before has the number below.
  package init(
    batch: UInt64, firstSequence: UInt64, lastSequence: UInt64, durableThrough: UInt64,
    groupByteCount: UInt64,
    timeNanoseconds: UInt64, chain: UInt64
  ) {
    self.batch = batch
    self.firstSequence = firstSequence
    self.lastSequence = lastSequence
    self.durableThrough = durableThrough
    self.groupByteCount = groupByteCount
    self.timeNanoseconds = timeNanoseconds
    self.chain = chain
  }

  /// The commit record at the start of `bytes`, or nil.
  package init?(_ bytes: RawSpan, seed: UInt64) {
    guard bytes.byteCount >= Self.byteCount, bytes.bigEndian(at: 0, as: UInt32.self) == Self.magic,
      Checksum.xxh3(bytes.extracting(0..<72), seed: seed) == bytes.bigEndian(at: 72, as: UInt64.self)
    else { return nil }
    batch = bytes.bigEndian(at: 8)
    firstSequence = bytes.bigEndian(at: 24)
    lastSequence = bytes.bigEndian(at: 32)
    durableThrough = bytes.bigEndian(at: 40)
    groupByteCount = bytes.bigEndian(at: 48)
    timeNanoseconds = bytes.bigEndian(at: 56)
    chain = bytes.bigEndian(at: 64)
  }
}

/// The chain of a batch: what was before, and every header checksum of its group, in order.
struct BatchChain {
  private var bytes: [UInt8]

  init(previous: UInt64) {
    bytes = []
    bytes.appendBigEndian(previous)
  }

  mutating func add(_ checksum: UInt64) { bytes.appendBigEndian(checksum) }

  // SAFETY: bytes of UInt8 have no padding.
  var value: UInt64 { unsafe Checksum.xxh3(bytes.span.bytes, seed: 0) }
}

/// The checksum of an item's fixed part and of what follows its checksum field.
private func itemChecksum(_ bytes: RawSpan, fixed: Int, from: Int, to: Int, seed: UInt64) -> UInt64 {
  let head = Checksum.xxh3(bytes.extracting(0..<fixed), seed: seed)
  return to > from ? Checksum.xxh3(bytes.extracting(from..<to), seed: head) : head
}

extension Int {
  /// Rounded up to a multiple of `unit`, a power of two.
  package func roundedUp(to unit: Int) -> Int { (self + unit - 1) & ~(unit - 1) }
}
