package import Bytes
internal import Extents
package import LMDB
internal import Threads

// Where everything in the segments is: a cache of them up to the applied position, in one LMDB environment
// (docs/format.md, "The index").
//
// 1. A commit says only what durable segment bytes say (rule A is the caller's: it syncs first).
// 2. A large delta is committed in slices of bounded size, and only the last moves the applied position. What a crash
//    leaves of the earlier slices is what a replay from the old position writes again.
//    Until then a mark says that the rows are ahead of it, for readers of other processes.
// 3. A lookup takes a read transaction from the pool for as long as it copies rows, never across I/O or a wait: a
//    held transaction would keep pages from being reused, and the file would grow.
// 4. A region's row counts only where no range row lies over it (RangeRow, rule 1): a lookup asks the ranges first and
//    never looks at rows behind them.

/// One index, opened. See the note at the top of the file.
package final class IndexTables: @unchecked Sendable {
  // Sendable: `idleReaders` is guarded by `lock`; LMDB itself may be shared.
  /// The environment that holds them.
  package let environment: LMDBEnvironment
  let meta: LMDBDatabase
  let disks: LMDBDatabase
  let generations: LMDBDatabase
  let map: LMDBDatabase
  let ranges: LMDBDatabase
  let sweeps: LMDBDatabase
  let frames: LMDBDatabase
  let segments: LMDBDatabase
  let held: LMDBDatabase
  let kept: LMDBDatabase
  private let lock = Lock()
  private var idleReaders: [LMDBReadTransaction] = []
  /// The most pages that a transaction may dirty.
  let pagesMax: Int
  /// Called before each transaction is committed; what it throws is what the commit fails with.
  let fault: @Sendable () throws(LMDBError) -> Void

  static let version: UInt32 = 5
  static let appliedKey = Array("applied".utf8)
  static let lossKey = Array("loss".utf8)
  static let aheadKey = Array("ahead".utf8)
  /// The one snapshot that every lookup uses once `pin` was called; guarded by `lock`.
  private var pinned: LMDBReadTransaction?

  /// Opens the environment in the existing directory `path`. `fault` is called before each transaction is committed.
  package init(
    path: String, readOnly: Bool, pagesMax: Int = PageBudget.pagesMax,
    fault: @escaping @Sendable () throws(LMDBError) -> Void = {}
  ) throws(LMDBError) {
    self.fault = fault
    self.pagesMax = pagesMax
    environment = try LMDBEnvironment(path: path, databases: 16, readOnly: readOnly)
    meta = try environment.open("meta", create: !readOnly)
    disks = try environment.open("disks", create: !readOnly)
    generations = try environment.open("generations", create: !readOnly)
    map = try environment.open("map", create: !readOnly)
    ranges = try environment.open("ranges", create: !readOnly)
    sweeps = try environment.open("sweeps", create: !readOnly)
    frames = try environment.open("frames", create: !readOnly)
    segments = try environment.open("segments", create: !readOnly)
    held = try environment.open("held", create: !readOnly)
    kept = try environment.open("kept", create: !readOnly)
  }

  var usedByteCount: UInt64 { environment.usedByteCount() }

  /// Bytes of the pages that are not free.
  func liveByteCount() throws(LMDBError) -> UInt64 {
    try environment.liveByteCount([
      meta, disks, generations, map, ranges, sweeps, frames, segments, held, kept,
    ])
  }

  // MARK: - Reading

  func withReader<Result>(
    _ body: (LMDBReadTransaction) throws(LMDBError) -> Result
  ) throws(LMDBError) -> Result {
    if let pinned = lock.withLock({ pinned }) { return try body(pinned) }
    let pooled = lock.withLock { idleReaders.popLast() }
    let reader: LMDBReadTransaction
    if let pooled {
      try pooled.renew()
      reader = pooled
    } else {
      reader = try environment.beginRead()
    }
    let result = try body(reader)
    reader.reset()
    lock.withLock { idleReaders.append(reader) }
    return result
  }

  /// Makes every later lookup see the index as it is now, until the object goes. For a short-lived reader: meanwhile no
  /// page that it can see is reused. Unless `evenAhead`, false with nothing pinned while a commit in slices is under
  /// way. Lookups must then come from one thread at a time.
  func pin(evenAhead: Bool) throws(LMDBError) -> Bool {
    let reader = try environment.beginRead()
    let isAhead = try reader.get(meta, Self.aheadKey) != nil
    guard evenAhead || !isAhead else { return false }
    lock.withLock { pinned = reader }
    return true
  }

  /// Calls `found` for each piece of `range` that the index knows, in order.
  package func look(
    _ layer: LayerKey, _ range: SectorRange, _ found: (SectorRange, Placement) -> Void
  ) throws(LMDBError) {
    guard !range.isEmpty else { return }
    try withReader { reader throws(LMDBError) in
      _ = try scan(reader, layer, range, stopAfter: .max, found)
    }
  }

  /// Calls `found` for the pieces of `range`, and stops before a region once `stopAfter` were found. Returns where it
  /// stopped: a portion never ends inside a region, so that the next one does not repeat rows.
  private func scan(
    _ reader: LMDBReadTransaction, _ layer: LayerKey, _ range: SectorRange, stopAfter: Int,
    _ found: (SectorRange, Placement) -> Void
  ) throws(LMDBError) -> UInt64 {
    var count = 0
    var position = range.start
    while position < range.end {
      let over = try rangeRow(reader, layer, endingBehind: position / Region.sectorCount)
      let free = SectorRange(
        start: position, end: max(position, min(range.end, over?.sectors.start ?? range.end)))
      let reached = try scanRows(reader, layer, free, stopAfter: stopAfter, &count, found)
      guard reached == free.end, count < stopAfter else { return reached }
      position = reached
      guard let over, let piece = over.sectors.intersection(range) else { break }
      found(SectorRange(start: max(position, piece.start), end: piece.end), over.kind.placement)
      count += 1
      position = piece.end
    }
    return range.end
  }

  /// Whether there is a row of `layer`.
  func holdsAnything(of layer: LayerKey) throws(LMDBError) -> Bool {
    try withReader { reader throws(LMDBError) in
      var isThere = false
      try reader.scan(map, from: RegionRow.key(layer, region: 0, part: 0)) { key, _ in
        isThere = RegionRow.parse(key)?.layer == layer
        return false
      }
      if isThere { return true }
      return try rangeRow(reader, layer, endingBehind: 0) != nil
    }
  }

  /// The range row that lies over `region`, or the next one behind it; nil when the layer has none.
  func rangeRow<Transaction: LMDBTransaction & ~Copyable>(
    _ transaction: borrowing Transaction, _ layer: LayerKey, endingBehind region: UInt64
  ) throws(LMDBError) -> RangeRow? {
    // Most journals have none.
    guard try transaction.shape(ranges).depth > 0 else { return nil }
    var row: RangeRow?
    var isBroken = false
    try transaction.scan(ranges, from: RangeRow.key(layer, end: region + 1)) { key, value in
      let found = RangeRow.parse(key, value)
      isBroken = found == nil
      if let found, found.layer == layer { row = found.row }
      return false
    }
    if isBroken { throw LMDBError.corrupted("a row of the ranges is malformed") }
    return row
  }

  /// As `scan`, over regions that no range row lies over.
  private func scanRows(
    _ reader: LMDBReadTransaction, _ layer: LayerKey, _ range: SectorRange, stopAfter: Int,
    _ count: inout Int,
    _ found: (SectorRange, Placement) -> Void
  ) throws(LMDBError) -> UInt64 {
    guard !range.isEmpty else { return range.end }
    var resume = range.end
    var seen = count
    var position = range.start
    var isBroken = false
    var splitRegion: UInt64?
    let first = RegionRow.key(layer, region: range.start / Region.sectorCount, part: 0)
    try reader.scan(map, from: first) { key, value in
      guard let (rowLayer, region, part) = RegionRow.parse(key), rowLayer == layer else { return false }
      let base = region * Region.sectorCount
      guard base < range.end else { return false }
      if seen >= stopAfter, part == 0 {
        resume = base
        return false
      }
      // A part without a region that is split is a row that should have gone.
      guard let entries = RegionRow.decode(value), part == 0 || splitRegion == region else {
        isBroken = true
        return false
      }
      if part == 0 { splitRegion = RegionRow.isSplit(value) ? region : nil }
      for entry in entries {
        let place = SectorRange(start: base + UInt64(entry.start), count: UInt64(entry.count))
        guard let piece = place.intersection(range) else { continue }
        // Parts of a split row that overlap would say two things of one sector.
        guard piece.start >= position else {
          isBroken = true
          return false
        }
        position = piece.end
        found(piece, entry.placement.advanced(by: piece.start - place.start))
        seen += 1
      }
      return true
    }
    if isBroken { throw LMDBError.corrupted("a row of the map is malformed") }
    count = seen
    return resume
  }

  /// Calls `body` for each piece of `range` that the index knows, in order. `body` may do I/O: rows are copied out
  /// in bounded portions, each from its own snapshot.
  func forEach(
    _ layer: LayerKey, in range: SectorRange, _ body: (SectorRange, Placement) throws(JournalError) -> Void
  ) throws(JournalError) {
    var next = range.start
    while next < range.end {
      var portion: [(SectorRange, Placement)] = []
      var resume = range.end
      do throws(LMDBError) {
        (portion, resume) = try portionOf(layer, SectorRange(start: next, end: range.end))
      } catch {
        throw JournalError(error)
      }
      for (piece, placement) in portion { try body(piece, placement) }
      next = resume
    }
  }

  func portionOf(
    _ layer: LayerKey, _ range: SectorRange
  ) throws(LMDBError) -> ([(SectorRange, Placement)], UInt64) {
    var portion: [(SectorRange, Placement)] = []
    let resume = try withReader { reader throws(LMDBError) in
      try scan(reader, layer, range, stopAfter: 4096) { portion.append(($0, $1)) }
    }
    return (portion, resume)
  }

  /// The applied position for `journal`; nil in a fresh environment, `.damaged` when it belongs to something else.
  func applied(journal: JournalUUID) throws(JournalError) -> AppliedPosition? {
    let value: [UInt8]?
    do throws(LMDBError) {
      value = try withReader { reader throws(LMDBError) in try reader.get(meta, Self.appliedKey) }
    } catch {
      throw JournalError(error)
    }
    guard let value else { return nil }
    guard value.count == 60, value.bigEndian(at: 0, as: UInt32.self) == Self.version,
      value.bigEndian(at: 4, as: UInt64.self) == journal.high,
      value.bigEndian(at: 12, as: UInt64.self) == journal.low
    else { throw JournalError(.damaged, "the index does not belong to this journal") }
    func word(_ at: Int) -> UInt64 { value.bigEndian(at: at) ?? 0 }
    return AppliedPosition(
      segment: word(20), offset: word(28), batch: word(36), sequence: word(44), chain: word(52))
  }

  /// What the journal has lost, if it has lost something nobody can name.
  func loss() throws(JournalError) -> String? {
    do throws(LMDBError) {
      return try withReader { reader throws(LMDBError) in try reader.get(meta, Self.lossKey) }
        .map { String(decoding: $0, as: UTF8.self) }
    } catch {
      throw JournalError(error)
    }
  }

  /// The keys of all generations.
  func layers() throws(LMDBError) -> [LayerKey] {
    var found: [LayerKey] = []
    try withReader { reader throws(LMDBError) in
      try reader.scan(generations, from: [0]) { key, _ in
        found.append(
          LayerKey(
            disk: DiskID(number: key.bigEndian(at: 0)), generation: GenerationID(number: key.bigEndian(at: 4))
          ))
        return true
      }
    }
    return found
  }

  /// All disks and generations.
  func catalog() throws(JournalError) -> (disks: [DiskID: DiskBody], layers: [LayerState]) {
    var found: [DiskID: DiskBody] = [:]
    var layers: [LayerState] = []
    do throws(LMDBError) {
      try withReader { reader throws(LMDBError) in
        try reader.scan(disks, from: [0]) { key, value in
          found[DiskID(number: key.bigEndian(at: 0))] = DiskBody(value.array)
          return true
        }
        try reader.scan(generations, from: [0]) { key, value in
          let layer = LayerKey(
            disk: DiskID(number: key.bigEndian(at: 0)), generation: GenerationID(number: key.bigEndian(at: 4))
          )
          if let state = LayerState(layer, value.array) { layers.append(state) }
          return true
        }
      }
    } catch {
      throw JournalError(error)
    }
    return (found, layers)
  }
}

extension RawSpan {
  /// A copy of the bytes.
  fileprivate var array: [UInt8] { (0..<byteCount).map { bigEndian(at: $0) } }
}

extension JournalError {
  /// A failed index operation, in the journal's words.
  init(_ error: LMDBError) {
    self.init(error.isNoSpace ? .noSpace : .failed, "index: \(error)")
  }
}
