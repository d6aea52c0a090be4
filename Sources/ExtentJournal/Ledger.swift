internal import Bytes
internal import DequeModule
internal import Extents
internal import Threads

// The ledger: everything acknowledged, by layer, and what waits for it.
//
// 1. One lock, the commit lock, guards all of it. Inside it there is no I/O and no call-out; the one exception is
//    the commit word, a store into shared memory, which must be in step with the sequence.
// 2. A sequence is given at commit, so the sequences of `pending` have no gaps and no stalled sender holds one.
// 3. A layer's content is, newest first: `spooled` (in the ring) over `active` (in segments, not in the index) over
//    `flushing` (being committed to the index) over the index. An extent leaves a map only after the next one has
//    it, so a reader that asks them in this order, the index last, misses nothing.
// 4. A read parks under the lock, after looking again: between its look and its park nothing arrives unnoticed.
//    `indexVersion` tells it when something went from `flushing` to the index meanwhile.

/// See the note at the top of the file.
final class Ledger: @unchecked Sendable {
  // Sendable: every variable is guarded by `lock`.
  let lock = Lock()
  /// Something for the spiller to look at.
  let work: Condition
  /// A batch was published, or a stall began or ended, or the journal failed.
  let progress: Condition
  /// A read was parked.
  let parkedChanged: Condition

  private(set) var disks: [DiskID: DiskBody] = [:]
  private(set) var layers: [LayerKey: Layer] = [:]
  /// Which generation of a device disk takes its writes.
  private(set) var open: [DiskID: OpenGeneration] = [:]

  /// The last sequence that is in force.
  private(set) var lastSequence: UInt64 = 0
  /// What the journal has lost, if it has lost something nobody can name.
  private(set) var loss: String?
  /// Sequences up to here were used once, and cut off by a crash: they are not used again.
  private var usedThrough: UInt64 = 0
  private(set) var pending = Deque<PendingRecord>()
  private(set) var pendingByteCount = 0
  /// A sequence that a FLUSH waits for: spill at once up to here.
  var wantedThrough: UInt64 = 0
  /// Everything up to here is written to segments and published.
  private(set) var spilledThrough: UInt64 = 0
  /// Whether a FLUSH waits for the spill.
  var isFlushWaiting: Bool { wantedThrough > spilledThrough }

  /// The drops and merges that the index has not followed, by sequence.
  private(set) var unsettled: Set<UInt64> = []
  /// What was published since the last index commit began, besides extents.
  private var unindexedRecords: [Record] = []
  /// Where the segments end for the index: the position behind the last published batch.
  private(set) var published = AppliedPosition()
  /// How far the index has followed.
  private(set) var indexed = AppliedPosition()
  private(set) var activeCount = 0
  private var isPublishing = false
  private(set) var indexVersion: UInt64 = 0

  /// The error that poisoned the journal; the first one stays.
  private(set) var failure: JournalError?
  /// Why spilling stands still for want of space.
  private(set) var spillStall: JournalError?
  /// Why writers wait for space before they take room in the ring; what is in it can be spilled.
  private(set) var shortage: JournalError?
  /// Why the stream cannot move, for either reason.
  var stall: JournalError? { spillStall ?? shortage }
  /// Counts what those that wait for space should look at.
  private(set) var spaceVersion: UInt64 = 0
  /// Set when reads must not wait any more.
  private(set) var isClosing = false
  private var lastOwner: UInt64 = 0
  var counters = Counters()
  /// Set before any thread starts.
  var hooks = TestHooks()

  struct Counters {
    var writtenBytes: UInt64 = 0
    var zeroedBytes: UInt64 = 0
    var releasedBytes: UInt64 = 0
    var framedBytes: UInt64 = 0
    var storedBytes: UInt64 = 0
    var parkedReads = 0
    var waitedReads: UInt64 = 0
    var longestWaitNanoseconds: UInt64 = 0
  }

  init() {
    work = Condition(lock)
    progress = Condition(lock)
    parkedChanged = Condition(lock)
  }

  // MARK: - Commit

  /// Makes the record in `slot` true: sequence, commit word, visible map. Returns the parked reads that it may
  /// serve; wake them after the acknowledgement was sent. The caller does not hold the lock.
  func commit(
    _ slot: SpoolSlot, of file: SpoolFile, _ kind: RecordKind, _ layer: LayerKey, _ range: SectorRange,
    body: [UInt8] = []
  ) throws(JournalError) -> [ParkedRead] {
    try commit([RecordDraft(slot: slot, kind: kind, layer: layer, range: range, body: body)], of: file)
  }

  /// As above, of sectors of `layer`; nil for a caller that is `following` a device disk when another generation has taken
  /// the layer's place: the record is to be compared with what that one holds, and committed to it.
  func commit(
    _ slot: SpoolSlot, of file: SpoolFile, _ kind: RecordKind, _ layer: LayerKey, _ range: SectorRange,
    allZero: Bool, following: Bool
  ) throws(JournalError) -> [ParkedRead]? {
    try lock.withLock { () throws(JournalError) in
      if following, layers[layer]?.successor != nil, !hooks.has(.writtenBehindSeal) { return nil }
      return try commitHeld(
        RecordDraft(slot: slot, kind: kind, layer: layer, range: range, allZero: allZero), of: file)
    }
  }

  /// Makes `drafts` true with neighbouring sequences: nobody sees some of them, though a crash may leave the first ones.
  /// The first is refused or all are taken; all are refused when `closed` may not be sealed.
  func commit(
    _ drafts: [RecordDraft], of file: SpoolFile, closing closed: Layer? = nil
  ) throws(JournalError) -> [ParkedRead] {
    try lock.withLock { () throws(JournalError) in
      if let refusal = closed?.refusal(of: .seal, []) { throw refusal }
      var woken: [ParkedRead] = []
      for draft in drafts { woken += try commitHeld(draft, of: file) }
      return woken
    }
  }

  private func commitHeld(_ draft: RecordDraft, of file: SpoolFile) throws(JournalError) -> [ParkedRead] {
    if let failure { throw failure }
    if let layer = layers[draft.layer], let refusal = layer.refusal(of: draft.kind, draft.body),
      !(layer.successor != nil && hooks.has(.writtenBehindSeal))
    {
      throw refusal
    }
    if draft.kind == .release { try requireNoDependent(of: draft.layer) }
    lastSequence = max(lastSequence, usedThrough) + 1
    let effective = draft.allZero ? RecordKind.zero : draft.kind
    hooks.reach(.recordFilled)
    if !hooks.has(.ackBeforeCommitWord) {
      file.commit(draft.slot.position, sequence: lastSequence, allZero: draft.allZero)
    }
    hooks.reach(.recordTrue)
    let record = Record(
      kind: effective, layer: draft.layer, sequence: lastSequence, range: draft.range, body: draft.body)
    return add(PendingRecord(record: record, slot: draft.slot, since: MonotonicClock.nanoseconds()))
  }

  /// Throws when another generation stands on `layer`. The caller holds the lock.
  private func requireNoDependent(of layer: LayerKey) throws(JournalError) {
    guard let dependent = layers.values.first(where: { stands($0, on: layer) }) else { return }
    let title = layers[layer]?.state.title ?? String(layer.generation.number)
    throw JournalError(
      .notPermitted,
      "nothing of generation \(title) can be released, for generation \(dependent.state.title) stands on it")
  }

  /// Whether `layer` stands on `base`, or will when the index has followed the drops of what is between them.
  private func stands(_ layer: Layer, on base: LayerKey) -> Bool {
    guard !layer.state.isDropped else { return false }
    var next = layer.base
    while let key = next, key != base, let below = layers[key], below.state.isDropped { next = below.base }
    return next == base
  }

  /// Sequences up to `last` were used by what a crash cut off.
  func skipSequences(through last: UInt64) { lock.withLock { usedThrough = max(usedThrough, last) } }

  /// Takes over a record that the ring kept through a crash. In sequence order, before anything else runs.
  ///
  /// A write stands in the ring under the generation for which it was reserved. When that was closed at its sequence it
  /// belongs to the one that was open then, as at its commit.
  func recover(_ pending: PendingRecord) {
    lock.withLock {
      var pending = pending
      let key = pending.record.layer
      if pending.record.kind.isWrite, layers[key]?.successor != nil, !hooks.has(.ringNamesGeneration) {
        pending.record.layer = open[key.disk]?.layer.key ?? key
      }
      lastSequence = pending.record.sequence
      _ = add(pending)
    }
  }

  private func add(_ entry: PendingRecord) -> [ParkedRead] {
    let record = entry.record
    if pending.isEmpty { work.signal() }
    pending.append(entry)
    pendingByteCount += entry.slot.byteCount
    if pendingByteCount >= Spiller.batchBytesTarget { work.signal() }
    return apply(record, position: entry.slot.payloadPosition)
  }

  /// What a record changes in what readers see.
  private func apply(_ record: Record, position: UInt64) -> [ParkedRead] {
    switch record.kind {
    case .data, .zero, .trim, .base, .release:
      guard let layer = layers[record.layer] else { return [] }
      switch record.kind {
      case .data: counters.writtenBytes += record.range.byteCount
      case .base: break
      case .release:
        counters.releasedBytes += record.range.byteCount
      default: counters.zeroedBytes += record.range.byteCount
      }
      layer.hasArrivals = true
      layer.spooled.insert(
        record.range, SpoolPlace(sequence: record.sequence, kind: record.kind, position: position))
      return woken(layer.parked.take(overlapping: record.range))
    case .begin:
      let closed = open[record.layer.disk]?.layer
      applyToCatalog(record)
      // Who waits for what a device has not written looks again: it reads as zeroes now.
      return woken(closed?.parked.takeAll() ?? [])
    default:
      applyToCatalog(record)
      guard record.kind.settlesWaits, let layer = layers[record.layer] else { return [] }
      return woken(layer.parked.takeAll())
    }
  }

  private func applyToCatalog(_ record: Record) {
    switch record.kind {
    case .disk:
      disks[record.layer.disk] = DiskBody(record.body)
    case .begin:
      guard layers[record.layer] == nil, let state = LayerState(begunBy: record) else { return }
      insert(Layer(state: state))
    case .taint where record.layer == .journal:
      if loss == nil { loss = String(decoding: record.body, as: UTF8.self) }
    case .taint:
      layers[record.layer]?.state.apply(record)
      layers[record.layer]?.hasTaintRecord = true
      progress.broadcast()
    case .complete, .bitmapWhole, .preSeal, .seal, .end, .source, .speed, .drop, .merge:
      layers[record.layer]?.state.apply(record)
      if MergeBody(record) != nil { unsettled.insert(record.sequence) }
    case .data, .zero, .trim, .base, .release, .removed:
      break
    }
  }

  /// Takes in a layer that is newer than the others of its disk. On a device disk it takes the writes from now on.
  private func insert(_ layer: Layer) {
    layers[layer.key] = layer
    guard disks[layer.key.disk]?.mode == .device else { return }
    guard let open = open[layer.key.disk] else {
      self.open[layer.key.disk] = OpenGeneration(layer)
      return
    }
    layer.keepsTombstones = open.layer.keepsTombstones
    open.layer.successor = layer
    open.layer = layer
  }

  /// Marks a layer as broken in memory, before the record that says so. `isFirst` when it was not before. The caller
  /// holds the lock.
  func markTainted(_ layer: Layer, _ reason: String) -> (isFirst: Bool, reads: [ParkedRead]) {
    let isFirst = layer.taint == nil
    if isFirst { layer.state.taint = reason }
    return (isFirst, woken(layer.parked.takeAll()))
  }

  /// Returns when the record that says that a layer is broken has its sequence: nothing acknowledged later is durable
  /// without it.
  func waitForTaintRecord(_ layer: Layer) throws(JournalError) {
    try lock.withLock { () throws(JournalError) in
      while !layer.hasTaintRecord {
        if let failure { throw failure }
        if isClosing { throw .closing }
        progress.wait()
      }
    }
  }

  // MARK: - Look up

  /// The first sector at or behind `sector` of which memory knows anything in `layer`. The lock is held.
  func firstKnown(_ layer: Layer, from sector: UInt64) -> UInt64? {
    [
      layer.spooled.firstSector(from: sector), layer.active.firstSector(from: sector),
      layer.flushing.firstSector(from: sector),
    ].compactMap { $0 }.min()
  }

  /// What memory knows of `range` and what it does not. The caller holds the lock.
  func look(_ layer: Layer, _ range: SectorRange) -> (pieces: [PlannedPiece], gaps: Gaps) {
    var pieces: [PlannedPiece] = []
    var gaps = Gaps(range)
    gaps.fill(from: layer.spooled) {
      pieces.append(PlannedPiece(range: $0, source: .spool($1), layer: layer.key))
    }
    gaps.fill(from: layer.active) {
      pieces.append(PlannedPiece(range: $0, source: .placed($1), layer: layer.key))
    }
    gaps.fill(from: layer.flushing) {
      pieces.append(PlannedPiece(range: $0, source: .placed($1), layer: layer.key))
    }
    return (pieces, gaps)
  }

  // MARK: - Spill

  /// The next run of records to spill, oldest first, at most `byteCount` bytes of ring (but at least one record).
  /// The caller holds the lock.
  func takeBatch(byteCount: Int) -> [PendingRecord] {
    var batch: [PendingRecord] = []
    var bytes = 0
    while let next = pending.first, batch.isEmpty || bytes + next.slot.byteCount <= byteCount {
      bytes += next.slot.byteCount
      batch.append(next)
      pending.removeFirst()
    }
    pendingByteCount -= bytes
    return batch
  }

  /// What was admitted for everything pending (Admission).
  var pendingAdmittedByteCount: Int { lock.withLock { pending.reduce(0) { $0 + $1.slot.admittedByteCount } } }

  /// A batch is in its segment: readers find it there from now on.
  ///
  /// The lock is given back in between, so that writers do not wait for a batch of thousands of pieces. A reader that
  /// comes meanwhile finds each piece in the ring or in `active`, or in both with the same bytes; the index waits until
  /// the batch is whole (`isPublishing`), since it may only say what is durable.
  func publish(_ batch: PublishedBatch, spooled: [PendingRecord]) {
    lock.withLock {
      isPublishing = true
      // Before the extents: during recovery this is where the catalog learns of a layer, and data may share a batch with
      // its beginning. Otherwise it was applied at commit.
      for record in batch.records where !record.kind.hasExtent {
        applyToCatalog(record)
        unindexedRecords.append(record)
      }
    }
    inSlices(batch.extents.count) { slice in
      for (key, range, placement) in batch.extents[slice] {
        guard let layer = layers[key] else { continue }
        layer.active.insert(range, placement)
        layer.hasArrivals = true
      }
    }
    hooks.reach(.publishing)
    inSlices(spooled.count) { slice in
      for entry in spooled[slice] where entry.record.kind.hasExtent {
        layers[entry.record.layer]?.spooled.remove(entry.record.range) { $0.sequence <= batch.end.sequence }
      }
    }
    lock.withLock {
      isPublishing = false
      activeCount += batch.extents.count
      published = batch.end
      spilledThrough = batch.end.sequence
      spaceVersion += 1
      lastSequence = max(lastSequence, batch.end.sequence)
      counters.framedBytes += batch.framedByteCount
      counters.storedBytes += batch.storedByteCount
      progress.broadcast()
    }
  }

  /// Calls `body` for runs of 16 of `count` items, each under the lock.
  private func inSlices(_ count: Int, _ body: (Range<Int>) -> Void) {
    for start in stride(from: 0, to: count, by: 16) {
      lock.withLock { body(start..<min(start + 16, count)) }
    }
  }

  // MARK: - Index

  /// Freezes what is published and not indexed. Between this and `finishIndexing` it stays visible in `flushing`.
  func beginIndexing() -> IndexDelta {
    lock.withLock {
      while isPublishing, !hooks.has(.indexWhilePublishing) {
        hooks.reach(.indexWaits)
        progress.wait()
      }
      var extents: [(LayerKey, ExtentMap<Placement>)] = []
      for layer in layers.values {
        if layer.flushing.isEmpty {
          swap(&layer.active, &layer.flushing)
        } else {
          // The last commit failed: put the newer extents over what it left.
          layer.active.forEach { layer.flushing.insert($0, $1) }
          layer.active = ExtentMap()
        }
        if !layer.flushing.isEmpty { extents.append((layer.key, layer.flushing)) }
      }
      activeCount = 0
      return IndexDelta(end: published, records: unindexedRecords, extents: extents)
    }
  }

  /// The index has committed `delta`.
  func finishIndexing(_ delta: IndexDelta) {
    lock.withLock {
      for (key, _) in delta.extents { layers[key]?.flushing = ExtentMap() }
      for record in delta.records { settle(record) }
      unindexedRecords.removeFirst(delta.records.count)
      indexed = delta.end
      indexVersion += 1
    }
  }

  /// The index has followed a drop or a merge: who takes in stands on another base now. A reader that looked before goes on
  /// through the old one, whose rows stay until it has left. The caller holds the lock.
  private func settle(_ record: Record) {
    guard let body = MergeBody(record) else { return }
    unsettled.remove(record.sequence)
    for dependent in body.dependents {
      let key = LayerKey(disk: record.layer.disk, generation: GenerationID(number: dependent))
      layers[key]?.state.rebase(to: body.newBase)
      layers[key]?.base = layers[key]?.state.baseKey
    }
    if record.kind == .drop { layers[record.layer]?.isSettled = true }
  }

  /// The dropped generations that the index has followed, with the sizes of their disks.
  var buriable: [(layer: LayerKey, byteCount: UInt64)] {
    lock.withLock {
      layers.values.filter { $0.isSettled && !$0.isBuried }.compactMap { layer in
        disks[layer.key.disk].map { (layer.key, $0.byteCount) }
      }
    }
  }

  /// Nothing is left of a dropped generation: nobody goes through it any more.
  func buried(_ key: LayerKey) {
    lock.withLock {
      layers[key]?.isBuried = true
      layers[key]?.base = nil
      layers[key]?.state.base = 0
    }
  }

  /// A new index knows everything up to `end`. What came after the old one's applied position is still in memory.
  func indexWasRebuilt(to end: AppliedPosition) {
    lock.withLock {
      indexed = end
      indexVersion += 1
      // It has their rows again.
      for layer in layers.values { layer.isBuried = false }
    }
  }

  // MARK: - State

  /// Loads what the index knew when the journal was opened.
  func load(
    disks: [DiskID: DiskBody], layers states: [LayerState], loss: String?, applied: AppliedPosition
  ) {
    lock.withLock {
      self.loss = loss
      self.disks = disks
      for state in states.sorted(by: { $0.key < $1.key }) { insert(Layer(state: state)) }
      published = applied
      indexed = applied
      spilledThrough = applied.sequence
      lastSequence = applied.sequence
    }
  }

  /// Keeps the first error, for good, and returns everything that waits.
  func fail(_ error: JournalError) -> [ParkedRead] {
    lock.withLock {
      if failure == nil { failure = error }
      spaceVersion += 1
      work.broadcast()
      progress.broadcast()
      return takeAllParked()
    }
  }

  /// Spilling stands still (or goes on, with nil). Returns the reads that would wait for a stream that cannot move.
  func setStall(_ reason: JournalError?) -> [ParkedRead] {
    lock.withLock {
      spillStall = reason
      spaceVersion += 1
      progress.broadcast()
      return reason == nil ? [] : takeAllParked()
    }
  }

  /// Writers wait for space (or do no more, with nil). Returns the reads that would wait for them.
  func setShortage(_ reason: JournalError?) -> [ParkedRead] {
    lock.withLock {
      let isNews = (shortage == nil) != (reason == nil)
      shortage = reason
      return isNews && reason != nil ? takeAllParked() : []
    }
  }

  /// Has those that wait for space look again.
  func signalSpace() {
    lock.withLock {
      spaceVersion += 1
      progress.broadcast()
    }
  }

  /// Reads must not wait from now on.
  func beginClosing() -> [ParkedRead] {
    lock.withLock {
      isClosing = true
      spaceVersion += 1
      progress.broadcast()
      return takeAllParked()
    }
  }

  /// A number that no other reader has.
  func newOwner() -> UInt64 {
    lock.withLock {
      lastOwner += 1
      return lastOwner
    }
  }

  private func takeAllParked() -> [ParkedRead] {
    var all: [ParkedRead] = []
    for layer in layers.values { all += layer.parked.takeAll() }
    return woken(all)
  }

  /// Counts reads that leave the parking. The caller holds the lock.
  func woken(_ reads: [ParkedRead]) -> [ParkedRead] {
    guard !reads.isEmpty else { return reads }
    counters.parkedReads -= reads.count
    let now = MonotonicClock.nanoseconds()
    for read in reads {
      counters.longestWaitNanoseconds = max(counters.longestWaitNanoseconds, now - min(now, read.since))
    }
    return reads
  }
}
