internal import Bytes
package import LMDB

// Rows that a range row made stale are removed later, some in each transaction, so that a trim costs no more than its
// range row. The `sweeps` database says where there may be some: a row says from which region to which one. It is
// written in the transaction of the range row, so a crash forgets none.
//
// A region's rows go all together or not at all: a part that outlives the part that names it would be taken for a part of
// what is written there next.

extension IndexTables {
  /// Most gaps between range rows that a transaction steps over.
  private static let sweptGapsMax = 4096

  private static func sweepKey(_ layer: LayerKey, _ first: UInt64) -> [UInt8] {
    RangeRow.key(layer, end: first)
  }

  /// Notes that rows of `regions` may be stale.
  func addSweep(
    _ layer: LayerKey, _ regions: Range<UInt64>, _ transaction: borrowing LMDBWriteTransaction
  ) throws(LMDBError) {
    let key = Self.sweepKey(layer, regions.lowerBound)
    let noted = try transaction.get(sweeps, key)?.bigEndian(at: 0, as: UInt64.self) ?? 0
    var value: [UInt8] = []
    value.appendBigEndian(max(noted, regions.upperBound))
    try transaction.put(sweeps, key, value)
  }

  /// Whether any region of `regions` has a row.
  func hasRows(
    _ layer: LayerKey, _ regions: Range<UInt64>, _ transaction: borrowing LMDBWriteTransaction
  ) throws(LMDBError) -> Bool {
    try !rows(layer, regions, max: 1, transaction).keys.isEmpty
  }

  /// The keys of the first rows of `regions`, at most `max` or the parts of one region more, and the region behind them.
  private func rows(
    _ layer: LayerKey, _ regions: Range<UInt64>, max: Int, _ transaction: borrowing LMDBWriteTransaction
  ) throws(LMDBError) -> (keys: [[UInt8]], end: UInt64) {
    var keys: [[UInt8]] = []
    var end = regions.upperBound
    let first = RegionRow.key(layer, region: regions.lowerBound, part: 0)
    try transaction.scan(map, from: first) { key, _ in
      guard let (rowLayer, region, part) = RegionRow.parse(key), rowLayer == layer,
        region < regions.upperBound
      else { return false }
      if keys.count >= max, part == 0 {
        end = region
        return false
      }
      keys.append(RegionRow.key(layer, region: region, part: part))
      return true
    }
    return (keys, end)
  }

  /// Removes some stale rows. False when there are none left.
  package func sweep() throws(LMDBError) -> Bool {
    let isNeeded = try withReader { reader throws(LMDBError) in
      var found = false
      try reader.scan(sweeps, from: [0]) { _, _ in
        found = true
        return false
      }
      return found
    }
    guard isNeeded else { return false }
    try transact { (transaction) throws(LMDBError) in
      guard let (layer, regions) = try nextSweep(transaction) else { return }
      var budget = try budget(transaction)
      var liveness = LivenessChanges()
      let last = try transaction.get(meta, Self.appliedKey)?.bigEndian(at: 44, as: UInt64.self) ?? 0
      let horizon = try transaction.get(meta, Self.horizonKey).flatMap { Horizon($0) }
      let holds = horizon.map { $0.sequence < last } ?? false
      let reached = try sweep(layer, regions, holds: holds, transaction, &budget, &liveness)
      try apply(liveness, transaction)
      try hold(liveness, until: last, transaction)
      try transaction.delete(sweeps, Self.sweepKey(layer, regions.lowerBound))
      if reached < regions.upperBound { try addSweep(layer, reached..<regions.upperBound, transaction) }
    }
    return true
  }

  private func nextSweep(
    _ transaction: borrowing LMDBWriteTransaction
  ) throws(LMDBError) -> (LayerKey, Range<UInt64>)? {
    var next: (LayerKey, Range<UInt64>)?
    var isBroken = false
    try transaction.scan(sweeps, from: [0]) { key, value in
      guard key.byteCount == 16, value.byteCount == 8 else {
        isBroken = true
        return false
      }
      let layer = LayerKey(
        disk: DiskID(number: key.bigEndian(at: 0)), generation: GenerationID(number: key.bigEndian(at: 4)))
      let first: UInt64 = key.bigEndian(at: 8)
      next = (layer, first..<max(first, value.bigEndian(at: 0)))
      return false
    }
    if isBroken { throw LMDBError.corrupted("a row of the sweeps is malformed") }
    return next
  }

  /// Removes rows of `regions` behind range rows; returns the region before which it stopped.
  private func sweep(
    _ layer: LayerKey, _ regions: Range<UInt64>, holds: Bool, _ transaction: borrowing LMDBWriteTransaction,
    _ budget: inout PageBudget, _ liveness: inout LivenessChanges
  ) throws(LMDBError) -> UInt64 {
    var region = regions.lowerBound
    for _ in 0..<Self.sweptGapsMax {
      guard region < regions.upperBound,
        let over = try rangeRow(transaction, layer, endingBehind: region),
        over.regions.lowerBound < regions.upperBound
      else { return regions.upperBound }
      let low = max(region, over.regions.lowerBound)
      let stale = low..<min(regions.upperBound, over.regions.upperBound)
      region = stale.lowerBound
      while region < stale.upperBound {
        let (keys, end) = try rows(layer, region..<stale.upperBound, max: 1, transaction)
        if !keys.isEmpty {
          guard try remove(keys, holds: holds, transaction, &budget, &liveness) else { return region }
        }
        region = end
      }
    }
    return region
  }

  /// Removes the rows `keys`, of one region, and what they refer to. False when the transaction has no room for it.
  private func remove(
    _ keys: [[UInt8]], holds: Bool, _ transaction: borrowing LMDBWriteTransaction,
    _ budget: inout PageBudget,
    _ liveness: inout LivenessChanges
  ) throws(LMDBError) -> Bool {
    var change = LivenessChange()
    for key in keys {
      guard let value = try transaction.get(map, key) else { continue }
      // SAFETY: bytes of UInt8 have no padding.
      if unsafe RegionRow.isSplit(value.span.bytes) { continue }
      let entries = try decoded(value)
      change.count(entries, -1)
      if holds { change.hold(RegionRow.superseded(entries, by: [])) }
    }
    guard
      budget.spend(
        map: keys.count, ranges: 0, frames: liveness.newRowCount(change), held: change.held.count, others: 0)
    else { return false }
    for key in keys { try transaction.delete(map, key) }
    liveness.add(change)
    return true
  }
}
