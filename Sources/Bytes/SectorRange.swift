/// The unit in which the journal keeps extents: 512 bytes, the smallest block any disk of the field has.
@usableFromInline
package enum Sector {
  /// Bytes in a sector.
  @usableFromInline package static let byteCount: UInt64 = 512
}

/// A half-open run of 512-byte sectors of one disk.
@usableFromInline
package struct SectorRange: Hashable, Sendable {
  /// The first sector.
  @usableFromInline package var start: UInt64
  /// One past the last sector; never below `start`.
  @usableFromInline package var end: UInt64

  /// The range [start, end).
  @inlinable
  package init(start: UInt64, end: UInt64) {
    precondition(start <= end, "a range ends before it starts")
    self.start = start
    self.end = end
  }

  /// The range of `count` sectors from `start`.
  @inlinable
  package init(start: UInt64, count: UInt64) {
    self.init(start: start, end: start + count)
  }

  /// How many sectors.
  @inlinable package var count: UInt64 { end - start }
  /// How many bytes.
  @inlinable package var byteCount: UInt64 { count * Sector.byteCount }
  /// The same range in bytes.
  @inlinable package var bytes: ByteRange {
    ByteRange(start: start * Sector.byteCount, end: end * Sector.byteCount)
  }
  /// Whether it holds no sector; such a range still has a place.
  @inlinable package var isEmpty: Bool { start == end }

  /// The part that both have, or nil when they do not touch in any sector.
  @inlinable
  package func intersection(_ other: SectorRange) -> SectorRange? {
    let low = max(start, other.start)
    let high = min(end, other.end)
    return low < high ? SectorRange(start: low, end: high) : nil
  }

  /// Ranges that only touch do not overlap; an empty one inside another does.
  @inlinable
  package func overlaps(_ other: SectorRange) -> Bool { start < other.end && other.start < end }

  /// Whether no sector of `other` lies outside; an empty one counts by its ends.
  @inlinable
  package func contains(_ other: SectorRange) -> Bool { start <= other.start && other.end <= end }
}

/// A half-open run of bytes of one disk.
@usableFromInline
package struct ByteRange: Hashable, Sendable {
  /// The first byte.
  @usableFromInline package var start: UInt64
  /// One past the last byte; never below `start`.
  @usableFromInline package var end: UInt64

  /// The range [start, end).
  @inlinable
  package init(start: UInt64, end: UInt64) {
    precondition(start <= end, "a range ends before it starts")
    self.start = start
    self.end = end
  }

  /// The range of `count` bytes from `offset`.
  @inlinable
  package init(offset: UInt64, count: UInt64) {
    self.init(start: offset, end: offset + count)
  }

  /// How many bytes.
  @inlinable package var count: UInt64 { end - start }
  @inlinable package var isEmpty: Bool { start == end }
  /// Whether both ends lie on sector boundaries.
  @inlinable package var isSectorAligned: Bool { (start | end) % Sector.byteCount == 0 }

  /// The part that both have, or nil when they do not touch in any byte.
  @inlinable
  package func intersection(_ other: ByteRange) -> ByteRange? {
    let low = max(start, other.start)
    let high = min(end, other.end)
    return low < high ? ByteRange(start: low, end: high) : nil
  }

  /// The smallest run of sectors that covers the range.
  @inlinable package var coveringSectors: SectorRange {
    SectorRange(start: start / Sector.byteCount, end: (end + Sector.byteCount - 1) / Sector.byteCount)
  }

  /// The largest run of whole sectors inside the range (empty at `start` rounded up when there is none).
  @inlinable package var enclosedSectors: SectorRange {
    let low = (start + Sector.byteCount - 1) / Sector.byteCount
    return SectorRange(start: low, end: max(low, end / Sector.byteCount))
  }
}
