internal import Bytes

/// What a segment takes: the two never mix, so that what dies young does not lie beside what has lived long.
package enum SegmentKind: UInt8, Sendable, CaseIterable {
  /// Batches as they come: the journal's history, in one chain.
  case fresh = 1
  /// What was moved out of other segments, and what upkeep has to record.
  case moved = 2

  /// The end of the names of its files.
  var suffix: String { self == .fresh ? ".seg" : ".mov" }
}

/// The first 4 KiB of a segment.
package struct SegmentSuperblock: Equatable, Sendable {
  var segment: UInt64
  /// Random; seeds every checksum of the segment.
  package var salt: UInt64
  var journal: JournalUUID
  var createdNanoseconds: UInt64
  /// What it takes.
  package private(set) var kind = SegmentKind.fresh

  /// Its size on disk, and where the first group begins.
  package static let byteCount = 4096
  private static let magic: UInt64 = 0x5350_5753_4547_4D54  // SPWSEGMT

  /// Writes the fields and the checksum; `target` has 4096 bytes and is zero before.
  package func encode(into target: inout MutableRawSpan) {
    target.storeBigEndian(Self.magic, at: 0)
    target.storeBigEndian(FormatVersion.major, at: 8)
    target.storeBigEndian(FormatVersion.minor, at: 10)
    target.storeBigEndian(kind == .moved ? FormatVersion.moved : FormatVersion.generations, at: 12)
    target.storeBigEndian(segment, at: 24)
    target.storeBigEndian(salt, at: 32)
    target.storeBigEndian(journal.high, at: 40)
    target.storeBigEndian(journal.low, at: 48)
    target.storeBigEndian(createdNanoseconds, at: 56)
    target.storeBigEndian(kind.rawValue, at: 64)
    let checksum = Checksum.xxh3(target.bytes.extracting(0..<4088), seed: 0)
    target.storeBigEndian(checksum, at: 4088)
  }

  /// The superblock of a fresh segment, with a random `salt`.
  package init(
    segment: UInt64, salt: UInt64, journal: JournalUUID, createdNanoseconds: UInt64,
    kind: SegmentKind = .fresh
  ) {
    self.kind = kind
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
    else { throw FormatFlaw("has no segment superblock", .torn) }
    guard bytes.bigEndian(at: 0, as: UInt64.self) == Self.magic else {
      throw FormatFlaw("has no segment superblock")
    }
    guard
      Checksum.xxh3(bytes.extracting(0..<4088), seed: 0) == bytes.bigEndian(at: 4088, as: UInt64.self)
    else { throw FormatFlaw("has a damaged superblock") }
    let use = FormatVersion.use(
      major: bytes.bigEndian(at: 8), incompatible: bytes.bigEndian(at: 12),
      readOnlyCompatible: bytes.bigEndian(at: 16))
    // Segments are only appended to by whoever created them: what may be read may be used.
    guard use != .none else { throw .newer }
    segment = bytes.bigEndian(at: 24)
    salt = bytes.bigEndian(at: 32)
    journal = JournalUUID(high: bytes.bigEndian(at: 40), low: bytes.bigEndian(at: 48))
    createdNanoseconds = bytes.bigEndian(at: 56)
    kind = SegmentKind(rawValue: bytes.bigEndian(at: 64)) ?? .fresh
  }
}
