internal import Bytes
internal import Extents

/// One change that a delta makes to the index.
enum IndexChange {
  /// Entries of one region, sorted and without overlaps, to be laid over what its row says.
  case entries(LayerKey, region: UInt64, [IndexEntry])
  /// Whole regions that read as zeroes.
  case range(LayerKey, Range<UInt64>, RangeRow.Kind)
  /// A record without extent.
  case record(Record)
}

/// A slice of a delta, as changes in the order of their keys. Each can be made twice, and in any transaction: what
/// they say is the last word on their sectors up to the end of the delta.
struct IndexChanges {
  private(set) var list: [IndexChange] = []

  /// Whether it is time to write them: bounds memory, not transactions.
  var isFull: Bool { list.count >= 2048 }

  mutating func add(_ record: Record) { list.append(.record(record)) }

  /// Forgets the first `count`, which were made, and of the one behind them all but `rest`.
  mutating func removeFirst(_ count: Int, leaving rest: IndexChange?) {
    list.removeFirst(count)
    if let rest { list[0] = rest }
  }

  /// Adds an extent; in the order of layers and sectors.
  mutating func add(_ layer: LayerKey, _ range: SectorRange, _ placement: Placement) {
    let first = (range.start + Region.sectorCount - 1) / Region.sectorCount
    let end = range.end / Region.sectorCount
    guard let kind = RangeRow.Kind(placement), end >= first + RangeRow.regionsMin else {
      return addEntries(layer, range, placement)
    }
    addEntries(layer, SectorRange(start: range.start, end: first * Region.sectorCount), placement)
    list.append(.range(layer, first..<end, kind))
    addEntries(layer, SectorRange(start: end * Region.sectorCount, end: range.end), placement)
  }

  private mutating func addEntries(_ layer: LayerKey, _ range: SectorRange, _ placement: Placement) {
    for region in Region.indices(range) {
      guard let piece = range.intersection(Region.range(region)) else { continue }
      let entry = IndexEntry(
        start: UInt16(piece.start - region * Region.sectorCount), count: UInt16(piece.count),
        placement: placement.advanced(by: piece.start - range.start))
      if case .entries(layer, region, var entries)? = list.last {
        list.removeLast()
        entries.append(entry)
        list.append(.entries(layer, region: region, entries))
      } else {
        list.append(.entries(layer, region: region, [entry]))
      }
    }
  }
}
