internal import Bytes
internal import Extents

/// Where a frame lies: segment, offset and size, as an index entry can say it.
package struct FrameAddress: Hashable, Sendable {
  /// The segment's number; at most 34 bits.
  package var segment: UInt64
  /// Offset of the frame in the segment ÷ 16; at most 22 bits.
  package var granule: UInt32
  /// Size of the frame item (header, extents and stored bytes) in KiB, rounded up; 1 to 511.
  package var kibibytes: UInt16

  /// Unchecked: whoever makes one keeps to the limits of the fields.
  package init(segment: UInt64, granule: UInt32, kibibytes: UInt16) {
    self.segment = segment
    self.granule = granule
    self.kibibytes = kibibytes
  }

  /// Bytes per granule: items of a group are packed on this.
  package static let granuleByteCount: UInt64 = 16
  /// The largest number of a segment: what 34 bits hold.
  package static let segmentMax: UInt64 = (1 << 34) - 1

  var offset: UInt64 { UInt64(granule) * Self.granuleByteCount }
}

/// Where the content of a run of sectors is, once it is in a segment.
package enum Placement: ExtentValue {
  /// In a frame, from its sector `skip` on.
  case frame(FrameAddress, skip: UInt32)
  /// All zeroes, provisioned.
  case zero
  /// All zeroes, given back.
  case trim
  /// Outside the bitmap: what the base generation has there.
  case base
  /// Given up by a reader: it cannot be read any more.
  case release

  /// What a record without payload says of its sectors; nil for a record that says nothing of sectors.
  init?(_ kind: RecordKind) {
    switch kind {
    case .zero: self = .zero
    case .trim: self = .trim
    case .base: self = .base
    case .release: self = .release
    default: return nil
    }
  }

  /// The same frame `sectors` further on; zeroes have no place to move.
  package func advanced(by sectors: UInt64) -> Placement {
    switch self {
    case .frame(let address, let skip): .frame(address, skip: skip + UInt32(sectors))
    case .zero: .zero
    case .trim: .trim
    case .base: .base
    case .release: .release
    }
  }
}

/// One entry of an index row: a run of sectors within its region and its placement, in 96 bits.
///
/// | bits | 10 | 10 | 2 | 9 | 9 | 34 | 22 |
/// |---|---|---|---|---|---|---|---|
/// | field | first sector | sectors − 1 | kind | skip | KiB | segment | granule |
package struct IndexEntry: Equatable, Sendable {
  /// First sector, relative to the region.
  package var start: UInt16
  /// Sectors, 1 to 1024.
  package var count: UInt16
  /// What its first sector is; the others follow it.
  package var placement: Placement

  static let byteCount = 12
  // An entry of nothing but zero bits is none, so what has neither frame nor zeroes has a mark for a reference.
  private static let baseMark: UInt64 = 1
  private static let releaseMark: UInt64 = 2

  var end: UInt16 { start + count }

  /// The entry as its 64 high and 32 low bits.
  package var bits: (high: UInt64, low: UInt32) {
    var kind: UInt64
    var skipBits: UInt64 = 0
    var kibibytes: UInt64 = 0
    var reference: UInt64 = 0
    switch placement {
    case .frame(let address, let skip):
      kind = 1
      skipBits = UInt64(skip)
      kibibytes = UInt64(address.kibibytes)
      precondition(address.granule < 1 << 22, "frame beyond what an entry can address")
      reference = address.segment << 22 | UInt64(address.granule)
    case .zero: kind = 2
    case .trim: kind = 3
    case .base:
      kind = 0
      reference = Self.baseMark
    case .release:
      kind = 0
      reference = Self.releaseMark
    }
    precondition(count >= 1 && start + count <= 1024, "entry outside its region")
    precondition(skipBits < 512 && kibibytes < 512 && reference < 1 << 56, "placement too large for an entry")
    var fields = UInt64(start)
    fields = fields << 10 | UInt64(count - 1)
    fields = fields << 2 | kind
    fields = fields << 9 | skipBits
    fields = fields << 9 | kibibytes
    return (fields << 24 | reference >> 32, UInt32(truncatingIfNeeded: reference))
  }

  /// Unchecked: `bits` traps on what it has no room for.
  package init(start: UInt16, count: UInt16, placement: Placement) {
    self.start = start
    self.count = count
    self.placement = placement
  }

  /// Nil when the bits are no entry.
  package init?(high: UInt64, low: UInt32) {
    start = UInt16(high >> 54)
    count = UInt16(high >> 44 & 1023) + 1
    guard start + count <= 1024 else { return nil }
    switch high >> 42 & 3 {
    case 1:
      let reference = (high & 0xFF_FFFF) << 32 | UInt64(low)
      let address = FrameAddress(
        segment: reference >> 22, granule: UInt32(reference & 0x3F_FFFF), kibibytes: UInt16(high >> 24 & 511))
      placement = .frame(address, skip: UInt32(high >> 33 & 511))
    case 2: placement = .zero
    case 3: placement = .trim
    case 0 where high << 22 == 0 && UInt64(low) == Self.baseMark: placement = .base
    case 0 where high << 22 == 0 && UInt64(low) == Self.releaseMark: placement = .release
    default: return nil
    }
  }
}
