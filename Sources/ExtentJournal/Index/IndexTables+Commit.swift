internal import Bytes
internal import Extents
package import LMDB
internal import Threads

// How a delta gets into the tables. The changes go into as many transactions as the page budget makes of them; only the
// last moves the applied position (IndexTables, rule 2).

extension IndexTables {
  /// What came of a change.
  private enum Outcome {
    case done
    /// The transaction has no room for it, or for more than a part of it: this is what is left.
    case full(IndexChange)
  }

  /// Where a commit ends, and where the horizon is then.
  private struct Target {
    var end: AppliedPosition
    var journal: JournalUUID
    var horizon: Horizon
    var isHolding: Bool

    /// Whether what is superseded is held for the past.
    var holds: Bool { isHolding && horizon.sequence < end.sequence }
  }

  /// Adds `delta` and moves the applied position to its end. Durable when it returns.
  ///
  /// The horizon moves to `horizon` (nil: to the end) before anything is superseded; what is, is held if the horizon lies
  /// before the end. (Not if it is not `holding`: a planted bug.)
  package func commit(
    _ delta: IndexDelta, journal: JournalUUID, horizon: Horizon? = nil, holding: Bool = true
  ) throws(LMDBError) {
    var changes = IndexChanges()
    let target = Target(
      end: delta.end, journal: journal,
      horizon: horizon
        ?? Horizon(sequence: delta.end.sequence, timeNanoseconds: WallClock.nanoseconds()),
      isHolding: holding)
    let merges = delta.records.filter { MergeBody($0) != nil }
    for record in delta.records where MergeBody(record) == nil { changes.add(record) }
    for (layer, map) in delta.extents {
      try map.forEach { (range, placement) throws(LMDBError) in
        if changes.isFull { _ = try write(&changes, target, isLast: false) }
        changes.add(layer, range, placement)
      }
    }
    for record in merges {
      // It reads what is committed.
      while !changes.list.isEmpty { _ = try write(&changes, target, isLast: false) }
      guard let body = MergeBody(record) else { continue }
      try forEachTakenIn(body, of: record.layer.disk) { (layer, range, placement) throws(LMDBError) in
        if changes.isFull { _ = try write(&changes, target, isLast: false) }
        changes.add(layer, range, placement)
      }
    }
    while try !write(&changes, target, isLast: true, settling: merges) {}
  }

  private static func encoded(_ end: AppliedPosition, _ journal: JournalUUID) -> [UInt8] {
    var value: [UInt8] = []
    value.appendBigEndian(version)
    value.appendBigEndian(journal.high)
    value.appendBigEndian(journal.low)
    for word in [end.segment, end.offset, end.batch, end.sequence, end.chain] { value.appendBigEndian(word) }
    return value
  }

  /// Makes as many of the changes as one transaction takes; what is left stays, so that the next one is full as well.
  /// True when all were made and (if it `isLast`) the applied position is set; `merges` are settled with it.
  private func write(
    _ changes: inout IndexChanges, _ target: Target, isLast: Bool, settling merges: [Record] = []
  ) throws(LMDBError) -> Bool {
    let list = changes.list
    var next = 0
    var rest: IndexChange?
    var isDone = false
    try transact { (transaction) throws(LMDBError) in
      var budget = try budget(transaction)
      var liveness = LivenessChanges()
      try put(target.horizon, transaction)
      while next < list.count {
        if case .full(let left) = try make(list[next], target, transaction, &budget, &liveness) {
          rest = left
          break
        }
        next += 1
      }
      try apply(liveness, transaction)
      try hold(liveness, until: target.end.sequence, transaction)
      guard next == list.count, isLast else { return try transaction.put(meta, Self.aheadKey, [1]) }
      for record in merges { try settle(record, transaction) }
      if target.holds {
        let first = try transaction.get(meta, Self.appliedKey)?.bigEndian(at: 20, as: UInt64.self) ?? 0
        if first <= target.end.segment {
          try keep(first...target.end.segment, until: target.end.sequence, transaction)
        }
      }
      try transaction.delete(meta, Self.aheadKey)
      try transaction.put(meta, Self.appliedKey, Self.encoded(target.end, target.journal))
      isDone = true
    }
    if !isDone { Failpoint.pass(.indexSliceCommitted) }
    changes.removeFirst(next, leaving: rest)
    return isDone
  }

  /// A write transaction, committed durably unless `body` or the planted fault throws.
  func transact(
    _ body: (borrowing LMDBWriteTransaction) throws(LMDBError) -> Void
  ) throws(LMDBError) {
    try environment.write { (transaction) throws(LMDBError) in
      try body(transaction)
      try fault()
    }
  }

  /// What a transaction on the tables as they are may spend.
  func budget(_ transaction: borrowing LMDBWriteTransaction) throws(LMDBError) -> PageBudget {
    let (mapDepth, mapBranches) = try transaction.shape(map)
    let (rangesDepth, rangesBranches) = try transaction.shape(ranges)
    let (framesDepth, framesBranches) = try transaction.shape(frames)
    let (heldDepth, heldBranches) = try transaction.shape(held)
    return PageBudget(
      pagesMax: pagesMax,
      map: PageBudget.Tree(depth: mapDepth, branchPages: mapBranches),
      ranges: PageBudget.Tree(depth: rangesDepth, branchPages: rangesBranches),
      frames: PageBudget.Tree(depth: framesDepth, branchPages: framesBranches),
      held: PageBudget.Tree(depth: heldDepth, branchPages: heldBranches))
  }

  private func make(
    _ change: IndexChange, _ target: Target, _ transaction: borrowing LMDBWriteTransaction,
    _ budget: inout PageBudget, _ liveness: inout LivenessChanges
  ) throws(LMDBError) -> Outcome {
    switch change {
    case .entries(let layer, let region, let entries):
      let isMade = try merge(
        layer, region, entries, holds: target.holds, transaction, &budget, &liveness)
      return isMade ? .done : .full(change)
    case .range(let layer, let regions, let kind):
      let row = RangeRow(regions: regions, kind: kind, sequence: target.end.sequence)
      guard let left = try lay(layer, row, transaction, &budget) else { return .done }
      return .full(.range(layer, left, kind))
    case .record(let record):
      // A long body has pages of its own.
      guard budget.spend(map: 0, ranges: 0, others: 1 + record.body.count / 4096) else {
        return .full(change)
      }
      try apply(record, transaction)
      return .done
    }
  }

  // MARK: - Regions

  /// Lays `entries` over what the region holds. False when the budget has no room for it.
  private func merge(
    _ layer: LayerKey, _ region: UInt64, _ entries: [IndexEntry], holds: Bool,
    _ transaction: borrowing LMDBWriteTransaction, _ budget: inout PageBudget,
    _ liveness: inout LivenessChanges
  ) throws(LMDBError) -> Bool {
    let (old, wasSplit) = try row(layer, region, transaction)
    let next = try rangeRow(transaction, layer, endingBehind: region)
    let over = next.flatMap { $0.regions.contains(region) ? $0 : nil }
    let merged = RegionRow.merge(over?.entries ?? old, entries)
    if let over, merged == over.entries { return true }

    let rows = RegionRow.encode(merged)
    let partsGo = wasSplit && rows.count == 1
    var change = LivenessChange()
    change.count(old, -1)
    change.count(merged, 1)
    if holds { change.hold(RegionRow.superseded(old, by: merged)) }
    guard
      budget.spend(
        map: rows.count + (partsGo ? Region.partCount : 0), ranges: over == nil ? 0 : 3,
        frames: liveness.newRowCount(change), held: change.held.count, others: 0)
    else { return false }
    liveness.add(change)
    for (part, value) in rows {
      try transaction.put(map, RegionRow.key(layer, region: region, part: part), value)
    }
    if partsGo {
      for part in 1...UInt8(Region.partCount) {
        try transaction.delete(map, RegionRow.key(layer, region: region, part: part))
      }
    }
    if let over { try replace([over], by: over.without(region), layer, transaction) }
    return true
  }

  /// The entries of a region's row, and whether it has parts.
  func row(
    _ layer: LayerKey, _ region: UInt64, _ transaction: borrowing LMDBWriteTransaction
  ) throws(LMDBError) -> (entries: [IndexEntry], isSplit: Bool) {
    guard let value = try transaction.get(map, RegionRow.key(layer, region: region, part: 0)) else {
      return ([], false)
    }
    // SAFETY: bytes of UInt8 have no padding.
    guard unsafe RegionRow.isSplit(value.span.bytes) else { return (try decoded(value), false) }
    var entries: [IndexEntry] = []
    for part in 1...UInt8(Region.partCount) {
      guard let value = try transaction.get(map, RegionRow.key(layer, region: region, part: part)) else {
        continue
      }
      entries += try decoded(value)
    }
    return (entries, true)
  }

  func decoded(_ value: [UInt8]) throws(LMDBError) -> [IndexEntry] {
    // SAFETY: bytes of UInt8 have no padding.
    guard let entries = unsafe RegionRow.decode(value.span.bytes) else {
      throw LMDBError.corrupted("a row of the map is malformed")
    }
    return entries
  }

  // MARK: - Ranges

  /// Most range rows that are replaced at once.
  private static let rangesAtOnce = 256

  /// Lays `row` over the range rows, and notes which regions' rows are stale from now on. Returns the regions that
  /// this transaction has no room for.
  func lay(
    _ layer: LayerKey, _ row: RangeRow, _ transaction: borrowing LMDBWriteTransaction,
    _ budget: inout PageBudget
  ) throws(LMDBError) -> Range<UInt64>? {
    var part = row
    let old = try neighbours(of: row, layer, transaction)
    // Too many: lay it over those first.
    if old.count == Self.rangesAtOnce, let last = old.last {
      part.regions = row.regions.lowerBound..<min(row.regions.upperBound, last.regions.upperBound)
    }
    let laid = part.laid(over: old)
    let mayBeStale = try hasRows(layer, part.regions, transaction)
    guard budget.spend(map: 0, ranges: old.count + laid.count, others: mayBeStale ? 1 : 0) else {
      return row.regions
    }
    try replace(old, by: laid, layer, transaction)
    if mayBeStale { try addSweep(layer, part.regions, transaction) }
    let left = part.regions.upperBound..<row.regions.upperBound
    return left.isEmpty ? nil : left
  }

  /// The first range rows that overlap `row` or touch it, in order.
  private func neighbours(
    of row: RangeRow, _ layer: LayerKey, _ transaction: borrowing LMDBWriteTransaction
  ) throws(LMDBError) -> [RangeRow] {
    var found: [RangeRow] = []
    var isBroken = false
    try transaction.scan(ranges, from: RangeRow.key(layer, end: row.regions.lowerBound)) { key, value in
      guard let other = RangeRow.parse(key, value) else {
        isBroken = true
        return false
      }
      guard other.layer == layer, other.row.regions.lowerBound <= row.regions.upperBound else { return false }
      found.append(other.row)
      return found.count < Self.rangesAtOnce
    }
    if isBroken { throw LMDBError.corrupted("a row of the ranges is malformed") }
    return found
  }

  private func replace(
    _ old: [RangeRow], by new: [RangeRow], _ layer: LayerKey, _ transaction: borrowing LMDBWriteTransaction
  ) throws(LMDBError) {
    let ends = Set(new.map(\.regions.upperBound))
    for row in old where !ends.contains(row.regions.upperBound) {
      try transaction.delete(ranges, RangeRow.key(layer, end: row.regions.upperBound))
    }
    for row in new where !old.contains(row) {
      try transaction.put(ranges, RangeRow.key(layer, end: row.regions.upperBound), row.value)
    }
  }

  // MARK: - Records

  private func apply(_ record: Record, _ transaction: borrowing LMDBWriteTransaction) throws(LMDBError) {
    if record.kind == .taint, record.layer == .journal {
      if try transaction.get(meta, Self.lossKey) == nil {
        try transaction.put(meta, Self.lossKey, record.body)
      }
      return
    }
    var diskKey: [UInt8] = []
    diskKey.appendBigEndian(record.layer.disk.number)
    if record.kind == .disk {
      try transaction.put(disks, diskKey, record.body)
      return
    }
    var key = diskKey
    key.appendBigEndian(record.layer.generation.number)
    var state = try transaction.get(generations, key).flatMap { LayerState(record.layer, $0) }
    if record.kind == .begin {
      if state == nil { state = LayerState(begunBy: record) }
    } else {
      state?.apply(record)
    }
    if let state { try transaction.put(generations, key, state.encoded) }
  }
}
