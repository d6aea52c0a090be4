internal import Bytes
internal import Extents
internal import LMDB
internal import Threads

// Where everything in the segments is: a cache of them up to the applied position, in LMDB (docs/format.md, "The
// index").
//
// 1. A commit says only what durable segment bytes say (rule A is the caller's: it syncs first).
// 2. A large delta is committed in slices of bounded size, and only the last moves the applied position. What a crash
//    leaves of the earlier slices is what a replay from the old position writes again.
//    Until then a mark says that the rows are ahead of it, for readers of other processes.
// 3. A lookup takes a read transaction from the pool for as long as it copies rows, never across I/O or a wait: a
//    held transaction would keep pages from being reused, and the file would grow.
final class Index: @unchecked Sendable {
  // Sendable: `idleReaders` is guarded by `lock`; LMDB itself may be shared.
  private let environment: LMDBEnvironment
  private let meta: LMDBDatabase
  private let disks: LMDBDatabase
  private let generations: LMDBDatabase
  private let map: LMDBDatabase
  private let lock = Lock()
  private var idleReaders: [LMDBReadTransaction] = []

  /// Most regions that one transaction changes: bounds its dirty pages.
  static let regionsPerCommit = 2048
  private static let version: UInt32 = 1
  private static let appliedKey = Array("applied".utf8)
  private static let aheadKey = Array("ahead".utf8)
  /// The one snapshot that every lookup uses once `pin` was called; guarded by `lock`.
  private var pinned: LMDBReadTransaction?

  /// Opens the environment in the existing directory `path`.
  init(path: String, readOnly: Bool) throws(LMDBError) {
    environment = try LMDBEnvironment(path: path, databases: 8, readOnly: readOnly)
    meta = try environment.open("meta", create: !readOnly)
    disks = try environment.open("disks", create: !readOnly)
    generations = try environment.open("generations", create: !readOnly)
    map = try environment.open("map", create: !readOnly)
  }

  var usedByteCount: UInt64 { environment.usedByteCount() }

  // MARK: - Reading

  private func withReader<Result>(
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
  func look(
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
    var resume = range.end
    var count = 0
    var position = range.start
    var isBroken = false
    let first = RegionRow.key(layer, region: range.start / Region.sectorCount, part: 0)
    try reader.scan(map, from: first) { key, value in
      guard let (rowLayer, region, part) = RegionRow.parse(key), rowLayer == layer else { return false }
      let base = region * Region.sectorCount
      guard base < range.end else { return false }
      if count >= stopAfter, part == 0 {
        resume = base
        return false
      }
      guard let entries = RegionRow.decode(value) else {
        isBroken = true
        return false
      }
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
        count += 1
      }
      return true
    }
    if isBroken { throw LMDBError.corrupted("row of the map") }
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

  private func portionOf(
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

  // MARK: - Committing

  /// Adds `delta` and moves the applied position to its end. Durable when it returns.
  func commit(_ delta: IndexDelta, journal: JournalUUID) throws(LMDBError) {
    var slice = Slice()
    for (layer, map) in delta.extents {
      try map.forEach { (range, placement) throws(LMDBError) in
        for region in Region.indices(range) {
          if slice.isFull(before: layer, region) {
            try commit(slice, end: nil, journal: journal)
            Failpoint.pass(.indexSliceCommitted)
            slice = Slice()
          }
          slice.add(layer, region, range, placement)
        }
      }
    }
    try commit(slice, end: delta, journal: journal)
  }

  /// New entries by region, in key order.
  private struct Slice {
    var rows: [(layer: LayerKey, region: UInt64, entries: [IndexEntry])] = []

    func isFull(before layer: LayerKey, _ region: UInt64) -> Bool {
      guard rows.count >= Index.regionsPerCommit, let last = rows.last else { return false }
      return last.layer != layer || last.region != region
    }

    mutating func add(_ layer: LayerKey, _ region: UInt64, _ range: SectorRange, _ placement: Placement) {
      guard let piece = range.intersection(Region.range(region)) else { return }
      let entry = IndexEntry(
        start: UInt16(piece.start - region * Region.sectorCount), count: UInt16(piece.count),
        placement: placement.advanced(by: piece.start - range.start))
      if let last = rows.last, last.layer == layer, last.region == region {
        rows[rows.count - 1].entries.append(entry)
      } else {
        rows.append((layer, region, [entry]))
      }
    }
  }

  private func commit(_ slice: Slice, end delta: IndexDelta?, journal: JournalUUID) throws(LMDBError) {
    try environment.write { (transaction) throws(LMDBError) in
      for row in slice.rows { try merge(row.layer, row.region, row.entries, transaction) }
      guard let delta else { return try transaction.put(meta, Self.aheadKey, [1]) }
      try transaction.delete(meta, Self.aheadKey)
      for record in delta.records { try apply(record, transaction) }
      var value: [UInt8] = []
      value.appendBigEndian(Self.version)
      value.appendBigEndian(journal.high)
      value.appendBigEndian(journal.low)
      for word in [delta.end.segment, delta.end.offset, delta.end.batch, delta.end.sequence, delta.end.chain]
      {
        value.appendBigEndian(word)
      }
      try transaction.put(meta, Self.appliedKey, value)
    }
  }

  private func merge(
    _ layer: LayerKey, _ region: UInt64, _ entries: [IndexEntry],
    _ transaction: borrowing LMDBWriteTransaction
  ) throws(LMDBError) {
    var old: [IndexEntry] = []
    var wasSplit = false
    if let row = try transaction.get(map, RegionRow.key(layer, region: region, part: 0)) {
      wasSplit = RegionRow.isSplit(row)
      if wasSplit {
        for part in 1...UInt8(Region.partCount) {
          guard let value = try transaction.get(map, RegionRow.key(layer, region: region, part: part)) else {
            continue
          }
          old += try decoded(value)
        }
      } else {
        old = try decoded(row)
      }
    }
    let rows = RegionRow.encode(RegionRow.merge(old, entries))
    for (part, value) in rows {
      try transaction.put(map, RegionRow.key(layer, region: region, part: part), value)
    }
    if wasSplit, rows.count == 1 {
      for part in 1...UInt8(Region.partCount) {
        try transaction.delete(map, RegionRow.key(layer, region: region, part: part))
      }
    }
  }

  private func decoded(_ value: [UInt8]) throws(LMDBError) -> [IndexEntry] {
    // SAFETY: bytes of UInt8 have no padding.
    guard let entries = unsafe RegionRow.decode(value.span.bytes) else {
      throw LMDBError.corrupted("row of the map")
    }
    return entries
  }

  private func apply(_ record: Record, _ transaction: borrowing LMDBWriteTransaction) throws(LMDBError) {
    var diskKey: [UInt8] = []
    diskKey.appendBigEndian(record.layer.disk.number)
    if record.kind == .disk {
      try transaction.put(disks, diskKey, record.body)
      return
    }
    var key = diskKey
    key.appendBigEndian(record.layer.generation.number)
    var state = try transaction.get(generations, key).flatMap { LayerState(record.layer, $0) }
    switch record.kind {
    case .begin:
      guard state == nil, let body = BeginBody(record.body) else { return }
      state = LayerState(key: record.layer, kind: body.kind, base: body.base, name: body.name)
    case .complete: state?.isComplete = true
    case .taint:
      if state?.taint == nil { state?.taint = String(decoding: record.body, as: UTF8.self) }
    case .disk, .data, .zero, .trim: break
    }
    if let state { try transaction.put(generations, key, state.encoded) }
  }
}

extension LayerState {
  /// The value of a row of the `generations` database.
  var encoded: [UInt8] {
    var bytes: [UInt8] = [kind.rawValue, (isComplete ? 1 : 0) | (taint != nil ? 2 : 0), 0, 0]
    bytes.appendBigEndian(base)
    bytes.appendBigEndian(UInt16(name.utf8.count))
    return bytes + name.utf8 + (taint ?? "").utf8
  }

  /// Nil when `bytes` is no such value.
  init?(_ key: LayerKey, _ bytes: [UInt8]) {
    guard bytes.count >= 10, let kind = GenerationKind(rawValue: bytes[0]),
      let base = bytes.bigEndian(at: 4, as: UInt32.self),
      let nameCount = bytes.bigEndian(at: 8, as: UInt16.self), bytes.count >= 10 + Int(nameCount)
    else { return nil }
    let name = String(decoding: bytes[10..<10 + Int(nameCount)], as: UTF8.self)
    let taint = bytes[1] & 2 != 0 ? String(decoding: bytes[(10 + Int(nameCount))...], as: UTF8.self) : nil
    self.init(key: key, kind: kind, base: base, name: name, isComplete: bytes[1] & 1 != 0, taint: taint)
  }
}

extension RegionRow {
  fileprivate static func isSplit(_ value: [UInt8]) -> Bool { value.count > 1 && value[1] & splitFlag != 0 }
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
