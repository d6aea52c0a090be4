package import Bytes
internal import Extents

// Whole regions that hold nothing, as one row of the `ranges` database instead of a row each: a TRIM of 16 TiB is
// 33 million regions. They read as zeroes, or as what the base has there, or not at all: the kind says which.
//
// 1. A region under a range row is of its kind from its first sector to its last, whatever its own rows in `map` say:
//    those are stale.
// 2. A region leaves a range row only in the transaction that writes its own row anew, over that kind: so what was stale
//    never comes back, however range rows are split, joined or replaced, and the order of sequences needs no comparing.
// 3. Range rows of a layer do not overlap. Neighbours of one kind are one row.
//
// The key ends with where the row ends and not with where it begins: then the row that covers a region, or else the next
// one behind it, is the first with a greater key, and one search in LMDB finds it.

/// A run of whole regions that hold nothing of their own.
package struct RangeRow: Equatable, Sendable {
  /// Never empty.
  package var regions: Range<UInt64>
  /// What they read as.
  package var kind: Kind
  /// The last sequence of the commit that wrote the row, or the highest of those that were joined.
  package var sequence: UInt64

  /// What the regions are; the numbers stand in the format.
  package enum Kind: UInt8, Sendable {
    case zero = 2
    case trim = 3
    case base = 4
    case release = 5

    /// The kind of `placement`; nil for a frame.
    init?(_ placement: Placement) {
      switch placement {
      case .zero: self = .zero
      case .trim: self = .trim
      case .base: self = .base
      case .release: self = .release
      case .frame: return nil
      }
    }

    /// What each of the sectors is.
    package var placement: Placement {
      switch self {
      case .zero: .zero
      case .trim: .trim
      case .base: .base
      case .release: .release
      }
    }
  }

  /// Whole regions from which on a zero, trim or base becomes a range row. Below, writing the rows is cheaper than what it costs
  /// later to fold newer data in: a range row of few regions saves few row writes and is split by the next write.
  package static let regionsMin: UInt64 = 8

  /// Unchecked: `regions` has at least one.
  package init(regions: Range<UInt64>, kind: Kind, sequence: UInt64) {
    self.regions = regions
    self.kind = kind
    self.sequence = sequence
  }

  /// The sectors of the regions.
  package var sectors: SectorRange {
    SectorRange(start: regions.lowerBound * Region.sectorCount, end: regions.upperBound * Region.sectorCount)
  }

  /// What takes the place of the rows `old`, in order, when this row is laid over them: what sticks out of it on either
  /// side stays, and neighbours of its kind join it.
  ///
  /// `old` has every row that overlaps this one or touches it.
  package func laid(over old: [RangeRow]) -> [RangeRow] {
    var joined = self
    var before: [RangeRow] = []
    var behind: [RangeRow] = []
    for row in old {
      if row.kind == kind {
        let low = min(row.regions.lowerBound, joined.regions.lowerBound)
        joined.regions = low..<max(row.regions.upperBound, joined.regions.upperBound)
        joined.sequence = max(joined.sequence, row.sequence)
        continue
      }
      if row.regions.lowerBound < regions.lowerBound {
        var part = row
        part.regions = row.regions.lowerBound..<min(row.regions.upperBound, regions.lowerBound)
        before.append(part)
      }
      if row.regions.upperBound > regions.upperBound {
        var part = row
        part.regions = max(row.regions.lowerBound, regions.upperBound)..<row.regions.upperBound
        behind.append(part)
      }
    }
    return before + [joined] + behind
  }

  /// What is left of the row, in order, when `region`, one of its own, leaves it.
  package func without(_ region: UInt64) -> [RangeRow] {
    var parts: [RangeRow] = []
    for left in [regions.lowerBound..<region, region + 1..<regions.upperBound] where !left.isEmpty {
      parts.append(RangeRow(regions: left, kind: kind, sequence: sequence))
    }
    return parts
  }

  /// What a region under the row holds, as entries of a row of its own.
  package var entries: [IndexEntry] {
    [IndexEntry(start: 0, count: UInt16(Region.sectorCount), placement: kind.placement)]
  }

  // MARK: - Bytes

  static let byteCount = 24

  /// The key of a row of `layer` that ends before the region `end`.
  package static func key(_ layer: LayerKey, end: UInt64) -> [UInt8] {
    var key: [UInt8] = []
    key.reserveCapacity(16)
    key.appendBigEndian(layer.disk.number)
    key.appendBigEndian(layer.generation.number)
    key.appendBigEndian(end)
    return key
  }

  /// The value of the row.
  package var value: [UInt8] {
    var value: [UInt8] = []
    value.reserveCapacity(Self.byteCount)
    value.appendBigEndian(regions.lowerBound)
    value.appendBigEndian(sequence)
    value.append(kind.rawValue)
    return value + [UInt8](repeating: 0, count: 7)
  }

  /// The row and its layer; nil when key and value are none.
  package static func parse(_ key: RawSpan, _ value: RawSpan) -> (layer: LayerKey, row: RangeRow)? {
    guard key.byteCount == 16, value.byteCount == byteCount,
      let kind = Kind(rawValue: value.bigEndian(at: 16))
    else { return nil }
    let start: UInt64 = value.bigEndian(at: 0)
    let end: UInt64 = key.bigEndian(at: 8)
    guard start < end, end <= Region.indexMax else { return nil }
    let layer = LayerKey(
      disk: DiskID(number: key.bigEndian(at: 0)), generation: GenerationID(number: key.bigEndian(at: 4)))
    return (layer, RangeRow(regions: start..<end, kind: kind, sequence: value.bigEndian(at: 8)))
  }
}
