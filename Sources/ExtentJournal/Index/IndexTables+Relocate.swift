internal import Bytes
internal import Extents
internal import LMDB

// Moves, in the index (rule C): what refers to the old place refers to the new one afterwards, and what refers to anything
// else by now is left alone. The compare is the entry itself: only one that names the old frame is changed.

/// Where sectors of a frame have gone.
struct Relocation: Sendable {
  var from: FrameAddress
  /// Of the old frame.
  var header: FrameHeader
  var to: FrameAddress
  /// Runs of sectors of the old frame and where each begins in the new one; in order, apart.
  var runs: [(old: Range<UInt32>, new: UInt32)]
  /// Where references were found when the copy was made.
  var references: [(layer: LayerKey, range: SectorRange, skip: UInt32)]

  /// The entries that take the place of `entry`; nil when it does not refer to the old frame.
  func moved(_ entry: IndexEntry) -> [IndexEntry]? {
    guard case .frame(from, let skip) = entry.placement else { return nil }
    var result: [IndexEntry] = []
    var position = skip
    let end = skip + UInt32(entry.count)
    func add(to bound: UInt32, _ placement: Placement) {
      guard position < bound else { return }
      result.append(
        IndexEntry(
          start: entry.start + UInt16(position - skip), count: UInt16(bound - position), placement: placement)
      )
      position = bound
    }
    for run in runs where run.old.upperBound > position && run.old.lowerBound < end {
      // What was not copied stays where it is.
      add(to: max(position, run.old.lowerBound), .frame(from, skip: position))
      add(to: min(end, run.old.upperBound), .frame(to, skip: run.new + (position - run.old.lowerBound)))
    }
    add(to: end, .frame(from, skip: position))
    return result
  }
}

extension IndexTables {
  /// Makes the relocations, in as many transactions as it takes; durable when it returns. With `comparing` false (a planted
  /// bug) the new place takes the place of whatever is there.
  func relocate(_ relocations: [Relocation], comparing: Bool = true) throws(LMDBError) {
    var byRegion: [RegionKey: [Int]] = [:]
    for (index, relocation) in relocations.enumerated() {
      for reference in relocation.references {
        for region in Region.indices(reference.range) {
          let key = RegionKey(layer: reference.layer, region: region)
          if byRegion[key]?.last != index { byRegion[key, default: []].append(index) }
        }
      }
    }
    let work = byRegion.sorted { $0.key < $1.key }
    var next = 0
    while next < work.count {
      try transact { (transaction) throws(LMDBError) in
        var budget = try budget(transaction)
        var liveness = LivenessChanges()
        while next < work.count {
          let (key, indices) = work[next]
          let isDone = try relocate(
            key, indices.map { relocations[$0] }, comparing, transaction, &budget, &liveness)
          guard isDone else { break }
          next += 1
        }
        try apply(liveness, transaction)
      }
    }
  }

  private struct RegionKey: Hashable, Comparable {
    var layer: LayerKey
    var region: UInt64
    static func < (a: Self, b: Self) -> Bool { a.layer == b.layer ? a.region < b.region : a.layer < b.layer }
  }

  private func relocate(
    _ key: RegionKey, _ relocations: [Relocation], _ comparing: Bool,
    _ transaction: borrowing LMDBWriteTransaction, _ budget: inout PageBudget,
    _ liveness: inout LivenessChanges
  ) throws(LMDBError) -> Bool {
    let (old, wasSplit) = try row(key.layer, key.region, transaction)
    var entries: [IndexEntry] = []
    for entry in old {
      var moved: [IndexEntry]?
      for relocation in relocations where moved == nil { moved = relocation.moved(entry) }
      entries += moved ?? [entry]
    }
    if !comparing {
      for relocation in relocations {
        entries = Self.forced(relocation, key.layer, key.region, over: entries)
      }
    }
    let merged = RegionRow.merge([], entries)
    if merged == old { return true }
    let rows = RegionRow.encode(merged)
    let partsGo = wasSplit && rows.count == 1
    var change = LivenessChange()
    change.count(old, -1)
    change.count(merged, 1)
    guard
      budget.spend(
        map: rows.count + (partsGo ? Region.partCount : 0), ranges: 0,
        frames: liveness.newRowCount(change), others: 0)
    else { return false }
    liveness.add(change)
    for (part, value) in rows {
      try transaction.put(map, RegionRow.key(key.layer, region: key.region, part: part), value)
    }
    if partsGo {
      for part in 1...UInt8(Region.partCount) {
        try transaction.delete(map, RegionRow.key(key.layer, region: key.region, part: part))
      }
    }
    return true
  }

  /// `entries` with the moved sectors laid over them, as a move without a compare would.
  private static func forced(
    _ relocation: Relocation, _ layer: LayerKey, _ region: UInt64, over entries: [IndexEntry]
  ) -> [IndexEntry] {
    var entries = entries
    for reference in relocation.references where reference.layer == layer {
      guard let piece = reference.range.intersection(Region.range(region)) else { continue }
      let old = IndexEntry(
        start: UInt16(piece.start - region * Region.sectorCount), count: UInt16(piece.count),
        placement: .frame(
          relocation.from, skip: reference.skip + UInt32(piece.start - reference.range.start)))
      entries = RegionRow.merge(entries, relocation.moved(old) ?? [])
    }
    return entries
  }

  /// Whether any sector of `range` is what a record of `kind` makes of it, a zero, a trim or outside the bitmap.
  func holds(_ placement: Placement, in layer: LayerKey, _ range: SectorRange) throws(LMDBError) -> Bool {
    var next = range.start
    while next < range.end {
      let (portion, resume) = try portionOf(layer, SectorRange(start: next, end: range.end))
      if portion.contains(where: { $0.1 == placement }) { return true }
      next = resume
    }
    return false
  }

  /// All references to the frame at `address`, whose header is `header`: in the layer that it names, and in the others of
  /// `layers` of its disk, until `sectors` were found.
  func references(
    to address: FrameAddress, _ header: FrameHeader, _ layers: [LayerKey], sectors: UInt64 = .max
  ) throws(LMDBError) -> [(layer: LayerKey, range: SectorRange, skip: UInt32)] {
    var found: [(layer: LayerKey, range: SectorRange, skip: UInt32)] = []
    var count: UInt64 = 0
    let others = layers.filter { $0.disk == header.layer.disk && $0 != header.layer }
    for layer in [header.layer] + others where count < sectors {
      for extent in header.extents {
        for (range, skip) in try references(to: address, in: layer, extent.range) {
          found.append((layer, range, skip))
          count += range.count
        }
      }
    }
    return found
  }

  /// The references to the frame at `address` in `range` of `layer`: where, and from which sector of the frame on.
  func references(
    to address: FrameAddress, in layer: LayerKey, _ range: SectorRange
  ) throws(LMDBError) -> [(range: SectorRange, skip: UInt32)] {
    var found: [(range: SectorRange, skip: UInt32)] = []
    try look(layer, range) { piece, placement in
      if case .frame(address, let skip) = placement { found.append((piece, skip)) }
    }
    return found
  }
}
