internal import BlockFile
internal import Bytes
internal import LMDB
internal import Threads

// Gives back what nobody needs any more, in this order: unlink dead segments, punch dead runs, compact segments of which
// less than half is live. (What is dead the index says: FrameLiveness.)
//
// 1. Only segments that the index has behind it are touched: those before its applied position, and sealed ones of moved data.
//    What memory knows and the index does not lies in later ones.
// 2. Rule B: what is freed was looked up in the index as it is durable, in a turn in which nobody commits; every reader of
//    this process that looked before has left its epoch, and no reader of another process is there (ReaderPins).
// 3. Rule C: copy, sync, compare-and-swap in the index, and only a later round frees what is then dead.
// 4. A record without payload is needed while the index says of one of its sectors what the record says: it may be the one
//    that made it so. (The newest word on each sector is all that a rebuild needs.) Records that set no sectors are always
//    needed, and so are all of generations that took something in or were taken in: a rebuild takes it in again.
//    Before a segment goes its needed records are in a segment of moved data, durably. While history is kept, what is needed
//    is what was needed when the segment was found without live frames, and it stays until the horizon has got there: no
//    point in time from then on needs more.
// 5. Before batches go, a list of them is durable (RemovedSegments), and before anything of a segment is freed, a commit record
//    behind it says that its batches are durable: so a rebuild can tell what is gone from what is lost.
//    The segment that holds that record does not go before another one says the same.
// 6. A segment that the index keeps for the past is not touched (IndexTables+Held, rule 2), and a frame of which the past needs
//    something stays where it is: nobody knows which of its sectors that is.
//
// A turn is short, so that commits need not wait: at most 32 segments are looked at in one, and copying is outside of it.
final class Upkeep: @unchecked Sendable {
  // Sendable: `work` lets one thread in at a time and guards everything but what `lock` does: the report, the flags and
  // the sums for the status.
  let ledger: Ledger
  let store: SegmentStore
  let indexer: Indexer
  let epochs: Epochs
  let mover: MovedWriter
  let log: JournalLog
  let poison: (JournalError) -> Void
  let limits: UpkeepLimits
  private let directory: String
  let spiller: Spiller
  let space: (reserve: SpaceReserve, admission: Admission)
  let history: History
  let pastIndexes: PastIndexes
  var admission: Admission { space.admission }
  let work = Lock()
  /// Held by who runs the steps, outside of `work`.
  private let callers = Lock()
  /// How many wait for quiet, or have it. Guarded by `lock`.
  private var quietCount = 0
  let lock = Lock()
  let press = FramePress()

  /// For each segment what of it was live when nothing more could be done about it.
  private var settled: [UInt64: SegmentLiveness] = [:]
  /// What was found out about segments: true as long as what is live of them is the same.
  var usage: [UInt64: SegmentUsage] = [:]
  /// Segments of which compaction could move nothing more, and what was live of them then.
  var exhausted: [UInt64: SegmentLiveness] = [:]
  /// Segments without live frames whose records the past may need: what was needed of them when that was found out, and which
  /// sequence the horizon has to reach before they may go (rule 4).
  private var waiting: [UInt64: (sequence: UInt64, records: [Record])] = [:]
  /// Where the horizon and the index were in this turn.
  private var bounds: (horizon: UInt64, applied: UInt64) = (0, 0)
  /// Of which generations all records are needed (rule 4).
  private var merging: Set<LayerKey> = []
  /// Segments that were recompressed, or tried.
  var recompressed: Set<UInt64> = []
  /// Runs that this process has punched.
  private var punched: [UInt64: [Range<UInt64>]] = [:]
  private var canPunch = true
  /// The batches whose segments were removed, and the segment that says so; nil when nobody has looked yet.
  private var removed: RemovedSegments?
  private var removedHome: UInt64?
  private var publishedUsage: [UInt64: SegmentUsage] = [:]
  private var report = UpkeepReport()
  /// Set under `lock`.
  var isStopping = false
  /// Whether copying gives way to a stream that comes in. For whoever works.
  var yieldsToIngest = false
  /// How long copying rests while a stream comes in, in quarters of the time that it took. For whoever works.
  var pauseShare: UInt64 = 12
  let everyNanoseconds: UInt64?
  let ended: Condition
  var thread: WorkerThread?
  /// When the thread looks again for segments that have become cold. For the thread alone.
  var nextColdLook: UInt64 = 0

  /// Segments that one turn looks at.
  private static let segmentsPerTurn = 32
  static let punchedRunsMax = 4096

  struct SegmentUsage {
    var sum: SegmentLiveness
    var kind: SegmentKind
    /// Stored bytes of what is live, of a frame in part its part.
    var liveBytes: UInt64
    /// What compaction would leave of it: frames that it copies whole, the live part of others, and their directory entries.
    var keptBytes: UInt64
    var allocatedBytes: UInt64
  }

  init(
    ledger: Ledger, store: SegmentStore, writer: SegmentWriter, indexer: Indexer, spiller: Spiller,
    history: History, pastIndexes: PastIndexes, epochs: Epochs, directory: String, host: JournalHost,
    space: (SpaceReserve, Admission), log: @escaping JournalLog,
    poison: @escaping (JournalError) -> Void
  ) {
    self.ledger = ledger
    self.store = store
    self.indexer = indexer
    self.spiller = spiller
    self.space = space
    self.history = history
    self.pastIndexes = pastIndexes
    everyNanoseconds = host.upkeepEveryNanoseconds
    ended = Condition(lock)
    self.epochs = epochs
    self.directory = directory
    limits = host.upkeepLimits
    self.log = log
    self.poison = poison
    mover = MovedWriter(
      store: store, segmentBytesMax: host.segmentBytesMax, durableBatch: { writer.durability.batch })
  }

  /// Works until there is nothing more to do, or `isCancelled` says so, or the journal is closed. Segments older than
  /// `coldNanoseconds` are recompressed, none if it is nil. Returns what was done.
  func run(
    yields: Bool, coldNanoseconds: UInt64?, isCancelled: () -> Bool = { false }
  ) throws(JournalError) -> UpkeepReport {
    try callers.withLock { () throws(JournalError) -> UpkeepReport in
      let before = doneSoFar
      while !isCancelled(), !shouldStop {
        do throws(JournalError) {
          try freeAndCompact(yields: yields, coldNanoseconds, isCancelled)
          break
        } catch {
          // To give something back something must be written first: for that blocks were kept.
          guard error.kind == .noSpace, space.reserve.giveUp() else { throw error }
          log(
            .warning, "the disk of the journal is full: upkeep goes on with the blocks that were kept for it")
        }
      }
      space.admission.adaptReserve()
      if !isCancelled(), !shouldStop, indexer.compactIndex(byteCountMin: limits.indexBytesMin) {
        note { $0.indexCompactions += 1 }
      }
      return doneSoFar.since(before)
    }
  }

  private func freeAndCompact(
    yields: Bool, _ coldNanoseconds: UInt64?, _ isCancelled: () -> Bool
  ) throws(JournalError) {
    try step { () throws(JournalError) in
      yieldsToIngest = yields
      try sealIdleSegment(evenLive: coldNanoseconds == 0)
      while !isCancelled(), !shouldStop, try indexer.sweepSome() {}
      try advanceHorizon()
      return true
    }
    while !isCancelled(), !shouldStop {
      let wasMore = try step { () throws(JournalError) in
        if try freeSome() { return true }
        if try compactOne() { return true }
        return try coldNanoseconds.map { (age) throws(JournalError) in
          try recompressOne(olderThan: age, isCancelled)
        } ?? false
      }
      guard wasMore else { break }
    }
  }

  /// One step of the work: between two of them whoever needs quiet has it.
  @discardableResult
  private func step(_ body: () throws(JournalError) -> Bool) throws(JournalError) -> Bool {
    lock.withLock { while quietCount > 0, !isStopping { ended.wait() } }
    return try work.withLock(body)
  }

  /// Runs `body` while nothing is moved and nothing freed.
  func inQuiet<Result>(_ body: () throws(JournalError) -> Result) throws(JournalError) -> Result {
    lock.withLock { quietCount += 1 }
    defer {
      lock.withLock {
        quietCount -= 1
        ended.broadcast()
      }
    }
    return try work.withLock(body)
  }

  /// Ends the segment of moved data with its directory. Last step of a journal that is closed.
  func close() throws(JournalError) {
    try work.withLock { () throws(JournalError) in
      do throws(FileError) {
        try mover.seal()
        try mover.sync()
      } catch {
        guard error.isNoSpace else { throw JournalError(error) }
      }
    }
  }

  var shouldStop: Bool {
    if lock.withLock({ isStopping }) { return true }
    return ledger.lock.withLock { ledger.failure != nil }
  }

  var doneSoFar: UpkeepReport { lock.withLock { report } }

  /// What is known of segments, for the status.
  var liveBytesOfSegments: [UInt64: SegmentUsage] { lock.withLock { publishedUsage } }

  func note(_ change: (inout UpkeepReport) -> Void) {
    let written = mover.writtenByteCount
    lock.withLock {
      change(&report)
      report.writtenBytes = written
    }
  }

  /// A failure of the files: for want of space the work goes on later; anything else is final (rule F).
  func failure(_ error: FileError) -> JournalError {
    let failure = JournalError(error)
    if failure.kind != .noSpace { poison(failure) }
    return failure
  }

  // MARK: - Freeing

  /// What a turn has found to free.
  private struct FreePlan {
    var unlinks: [(number: UInt64, kind: SegmentKind, allocatedBytes: UInt64)] = []
    var removed: [RemovedRun] = []
    var records: [Record] = []
    var punches: [(number: UInt64, runs: [Range<UInt64>])] = []
    /// The highest batch of what is touched.
    var lastBatch: UInt64 = 0
    var listMoves = false
    /// Whether what says which batches are durable goes.
    var durabilityMoves = false

    var isEmpty: Bool { unlinks.isEmpty && punches.isEmpty }
  }

  /// Frees what can be freed of some segments. False when there is nothing to look at.
  private func freeSome() throws(JournalError) -> Bool {
    if removed == nil { try loadRemoved() }
    return try indexer.inTurn { (tables) throws(JournalError) -> Bool in
      let sums = try liveSums(tables)
      let isThorough = !isBusy || isShort
      let all = try segments(tables)
      bounds = try bounds(tables)
      let candidates = all.filter { number, _ in
        isWorthALook(settled[number], sums[number, default: SegmentLiveness()], isThorough: isThorough)
          || waiting[number].map { $0.sequence <= bounds.horizon } ?? false
      }
      forgetAllBut(all.map(\.number))
      guard !candidates.isEmpty else { return false }
      let catalog = try tables.catalog()
      merging = LayerState.merging(catalog.layers)
      var plan = FreePlan()
      let some = candidates.prefix(Self.segmentsPerTurn)
      for (number, kind) in some {
        try consider(
          number, kind, sums[number] ?? SegmentLiveness(), tables, Set(catalog.layers.map(\.key)), &plan)
      }
      if !plan.isEmpty {
        guard try free(plan) else {
          // Somebody reads: later.
          return false
        }
      }
      for (number, _) in some {
        settled[number] = sums[number] ?? SegmentLiveness()
        if let past = waiting[number], past.sequence <= bounds.horizon { waiting[number] = nil }
      }
      lock.withLock { publishedUsage = usage }
      return true
    } ?? false
  }

  func liveSums(_ tables: IndexTables) throws(JournalError) -> [UInt64: SegmentLiveness] {
    do throws(LMDBError) { return try tables.liveSegments() } catch { throw JournalError(error) }
  }

  /// The segments that may be touched (rules 1 and 6). In a turn.
  private func segments(
    _ tables: IndexTables
  ) throws(JournalError) -> [(number: UInt64, kind: SegmentKind)] {
    let indexed = ledger.lock.withLock { ledger.indexed.segment }
    var kept: [UInt64: UInt64] = [:]
    do throws(LMDBError) { kept = try tables.keptSegments() } catch { throw JournalError(error) }
    if ledger.hooks.has(.pastSegmentsTouched) { kept = [:] }
    do throws(FileError) {
      return try store.list(.fresh).filter { $0 < indexed && kept[$0] == nil }.map { ($0, .fresh) }
        + store.list(.moved).filter { $0 != mover.openNumber }.map { ($0, .moved) }
    } catch {
      throw failure(error)
    }
  }

  /// Whether a segment has lost something since it was looked at; while a stream comes in, a thirty-second at least: random
  /// writes take a little of every segment all the time, and each look reads a directory.
  private func isWorthALook(_ seen: SegmentLiveness?, _ now: SegmentLiveness, isThorough: Bool) -> Bool {
    guard let seen, !now.isEmpty, !isThorough else { return seen != now }
    return now.sectors + seen.sectors / 32 < seen.sectors || now.sectors > seen.sectors
  }

  /// Where horizon and index are. In a turn.
  private func bounds(_ tables: IndexTables) throws(JournalError) -> (horizon: UInt64, applied: UInt64) {
    let applied = ledger.lock.withLock { ledger.indexed.sequence }
    do throws(LMDBError) {
      return (try tables.horizon()?.sequence ?? applied, applied)
    } catch {
      throw JournalError(error)
    }
  }

  private func forgetAllBut(_ numbers: [UInt64]) {
    let known = Set(numbers)
    settled = settled.filter { known.contains($0.key) }
    recompressed.formIntersection(known)
    waiting = waiting.filter { known.contains($0.key) }
    usage = usage.filter { known.contains($0.key) }
    exhausted = exhausted.filter { known.contains($0.key) }
    punched = punched.filter { known.contains($0.key) }
  }

  private func consider(
    _ number: UInt64, _ kind: SegmentKind, _ sum: SegmentLiveness, _ tables: IndexTables,
    _ layers: Set<LayerKey>,
    _ plan: inout FreePlan
  ) throws(JournalError) {
    guard case .success(let segment) = try store.segmentOrFlaw(number),
      let inventory = try SegmentInventory.read(segment)
    else { return }
    let allocated: UInt64
    let live: [LiveFrame]
    do throws(FileError) { allocated = try store.allocatedByteCount(number, kind) } catch {
      throw failure(error)
    }
    do throws(LMDBError) { live = try tables.liveFrames(of: number) } catch { throw JournalError(error) }
    usage[number] = SegmentUsage(
      sum: sum, kind: kind, liveBytes: inventory.storedByteCount(of: live),
      keptBytes: inventory.keptByteCount(of: live), allocatedBytes: allocated)
    if sum.isEmpty, try retire(number, kind, inventory, allocated, tables, layers, &plan) { return }
    guard canPunch, inventory.isSealed else { return }
    let groups = UInt64(SegmentSuperblock.byteCount)..<inventory.end.offset
    let done = punched[number] ?? []
    let runs = DeadRuns.find(
      in: groups, live: live, byteCountMin: byteCountMin(allocated, live: live), countMax: Self.punchedRunsMax
    ).filter { run in !done.contains { $0.lowerBound <= run.lowerBound && run.upperBound <= $0.upperBound } }
    guard !runs.isEmpty else { return }
    plan.punches.append((number, runs))
    plan.lastBatch = max(plan.lastBatch, inventory.end.batch)
  }

  /// Runs below 64 KiB cost a call and an extent each: only when the segment has lost more than a tenth to smaller ones.
  private func byteCountMin(_ allocated: UInt64, live: [LiveFrame]) -> UInt64 {
    let needed = live.reduce(0) { $0 + UInt64($1.address.kibibytes) * 1024 }
    return allocated > needed + needed / 10 + limits.punchedBytesMin
      ? UInt64(AlignedBuffer.alignment) : limits.punchedBytesMin
  }

  /// Plans the end of a segment without live frames. False when its records keep it.
  private func retire(
    _ number: UInt64, _ kind: SegmentKind, _ inventory: SegmentInventory, _ allocated: UInt64,
    _ tables: IndexTables, _ layers: Set<LayerKey>, _ plan: inout FreePlan
  ) throws(JournalError) -> Bool {
    let holdsList = number == removedHome
    guard let records = try keptRecords(number, inventory, tables, layers) else { return false }
    let isKept = !records.isEmpty || holdsList && removed?.runs.isEmpty == false
    let recordBytes = records.reduce(0) { $0 + UInt64(RecordItem.byteCount($1)) }
    if isKept, allocated < limits.retiredBytesMin + 2 * recordBytes { return false }
    plan.unlinks.append((number, kind, allocated))
    plan.records += records
    plan.listMoves = plan.listMoves || holdsList
    plan.lastBatch = max(plan.lastBatch, inventory.end.batch)
    if kind == .moved, !ledger.hooks.has(.durabilityForgotten) {
      // What it calls durable nobody else may.
      mover.inherit(inventory.durableThrough)
      plan.lastBatch = max(plan.lastBatch, inventory.durableThrough)
      plan.durabilityMoves = plan.durabilityMoves || number == mover.recordedHome
    }
    if kind == .fresh, inventory.firstBatch > 0 {
      plan.removed.append(
        RemovedRun(
          firstBatch: inventory.firstBatch, lastBatch: inventory.end.batch,
          lastSequence: inventory.end.sequence, chain: inventory.end.chain))
    }
    return true
  }

  /// What has to stay of the records of a segment without live frames; nil while the past may need more than that (rule 4).
  private func keptRecords(
    _ number: UInt64, _ inventory: SegmentInventory, _ tables: IndexTables, _ layers: Set<LayerKey>
  ) throws(JournalError) -> [Record]? {
    if let past = waiting[number] { return past.sequence <= bounds.horizon ? past.records : nil }
    let needed = try neededRecords(inventory, tables, layers)
    let isPast = bounds.horizon < bounds.applied && !ledger.hooks.has(.pastRecordsForgotten)
    guard isPast, needed.count < inventory.records.count(where: { $0.kind != .removed }) else {
      return needed
    }
    waiting[number] = (bounds.applied, needed)
    return nil
  }

  /// Rule 4.
  private func neededRecords(
    _ inventory: SegmentInventory, _ tables: IndexTables, _ layers: Set<LayerKey>
  ) throws(JournalError) -> [Record] {
    if ledger.hooks.has(.recordsForgotten) { return [] }
    var needed: [Record] = []
    for record in inventory.records where record.kind != .removed {
      if let placement = Placement(record.kind), !merging.contains(record.layer) {
        guard layers.contains(record.layer) else { continue }
        do throws(LMDBError) {
          guard try tables.holds(placement, in: record.layer, record.range) else { continue }
        } catch {
          throw JournalError(error)
        }
      }
      needed.append(record)
    }
    return needed
  }

  /// Frees what `plan` says, after what it takes is durable. False when somebody else reads.
  private func free(_ plan: FreePlan) throws(JournalError) -> Bool {
    guard let pin = ReaderPin(freeing: directory) else {
      note { $0.postponements += 1 }
      return false
    }
    let listed = removed ?? RemovedSegments()
    var list = listed
    for run in plan.removed { list.add(run) }
    let listIsNews = list != listed || plan.listMoves && !list.runs.isEmpty
    if listIsNews || !plan.records.isEmpty || plan.durabilityMoves || mover.recordedDurable < plan.lastBatch {
      try move(plan.records + (listIsNews ? list.records : []))
      // From here on the list says so, whether or not the segments go now.
      removed = list
      if listIsNews { removedHome = mover.openNumber }
      note { $0.movedRecords += UInt64(plan.records.count) }
    }
    do throws(FileError) { try mover.sync() } catch { throw failure(error) }
    if !ledger.hooks.has(.freedUnderReaders) { epochs.waitForEarlierReaders() }
    ledger.hooks.reach(.freeing)
    do throws(FileError) {
      for unlink in plan.unlinks { try store.remove(unlink.number, unlink.kind) }
      if !plan.unlinks.isEmpty { try store.files.syncNames() }
    } catch {
      throw failure(error)
    }
    note {
      $0.unlinkedSegments += UInt64(plan.unlinks.count)
      $0.unlinkedBytes += plan.unlinks.reduce(0) { $0 + $1.allocatedBytes }
    }
    for (number, runs) in plan.punches where canPunch { try punch(number, runs) }
    ledger.hooks.reach(.freed)
    ledger.signalSpace()
    _ = consume pin
    return true
  }

  private func punch(_ number: UInt64, _ runs: [Range<UInt64>]) throws(JournalError) {
    let segment = try store.segment(number)
    do throws(FileError) {
      for run in runs { try segment.file.punch(run) }
    } catch {
      guard error.isUnsupported else { throw failure(error) }
      canPunch = false
      log(
        .info,
        "the filesystem of the journal cannot give back parts of files; dead space is compacted instead")
      return
    }
    punched[number, default: []] += runs
    if let kind = usage[number]?.kind {
      do throws(FileError) {
        usage[number]?.allocatedBytes = try store.allocatedByteCount(number, kind)
      } catch {
        throw failure(error)
      }
    }
    note {
      $0.punchedRuns += UInt64(runs.count)
      $0.punchedBytes += runs.reduce(0) { $0 + UInt64($1.count) }
    }
  }

  /// Writes `records` to a segment of moved data, durably; none of them still records what is durable.
  private func move(_ records: [Record]) throws(JournalError) {
    let byteCount = records.reduce(CommitRecord.byteCount) { $0 + RecordItem.byteCount($1).roundedUp(to: 16) }
    do throws(FileError) {
      try mover.begin(byteCount: byteCount.roundedUp(to: AlignedBuffer.alignment))
      for record in records { mover.add(record) }
      try mover.finish()
      try mover.sync()
    } catch {
      throw failure(error)
    }
    ledger.hooks.reach(.moved)
  }

  /// The inventory of a segment of moved data that another process wrote. If that one died before it ended the segment, it
  /// is ended now: behind its last whole group, to which nothing points. Nil when it cannot be read.
  private func takeOver(_ number: UInt64) throws(JournalError) -> SegmentInventory? {
    switch try store.segmentOrFlaw(number) {
    case .failure(let flaw):
      guard flaw.kind == .torn else { return nil }
      do throws(FileError) { try store.remove(number, .moved) } catch { throw failure(error) }
      return nil
    case .success(let segment):
      guard let inventory = try SegmentInventory.read(segment) else { return nil }
      if !inventory.isSealed {
        do throws(FileError) {
          try segment.file.truncate(to: inventory.end.offset)
          try SegmentWriter.seal(
            segment, inventory.directory, at: inventory.end, durableThrough: inventory.durableThrough)
          try segment.file.sync()
        } catch {
          guard error.isNoSpace else { throw failure(error) }
        }
      }
      return inventory
    }
  }

  private func loadRemoved() throws(JournalError) {
    var found = RemovedSegments()
    let numbers: [UInt64]
    do throws(FileError) { numbers = try store.list(.moved) } catch { throw failure(error) }
    for number in numbers {
      guard let inventory = try takeOver(number) else { continue }
      for record in inventory.records where record.kind == .removed {
        found.add(record)
        removedHome = number
      }
    }
    removed = found
  }
}

extension SegmentInventory {
  /// Stored bytes of `live`, frames of this segment; of a frame that is live in part its part.
  func storedByteCount(of live: [LiveFrame]) -> UInt64 {
    sum(over: live) { header, sectors, total in UInt64(header.itemByteCount) * sectors / total }
  }

  /// What compaction would make of `live`, in bytes, with what a directory says of it.
  func keptByteCount(of live: [LiveFrame]) -> UInt64 {
    sum(over: live) { header, sectors, total in
      let item = UInt64(header.itemByteCount)
      let stays = Upkeep.copiesWhole(liveSectors: sectors, of: total) ? item : item * sectors / total
      return stays + UInt64(SegmentDirectory.entryByteCount(header.byteCount))
    }
  }

  private func sum(
    over live: [LiveFrame], _ bytes: (FrameHeader, _ liveSectors: UInt64, _ sectors: UInt64) -> UInt64
  ) -> UInt64 {
    var sectors: [UInt64: UInt64] = [:]
    for frame in live { sectors[frame.address.offset] = UInt64(frame.sectors) }
    return frames.reduce(0) { sum, frame in
      guard let references = sectors[frame.offset] else { return sum }
      let total = max(UInt64(frame.header.rawByteCount) / Sector.byteCount, 1)
      return sum + bytes(frame.header, min(references, total), total)
    }
  }
}

extension UpkeepReport {
  /// What was done since `before`.
  func since(_ before: UpkeepReport) -> UpkeepReport {
    var report = self
    report.unlinkedSegments -= before.unlinkedSegments
    report.unlinkedBytes -= before.unlinkedBytes
    report.punchedRuns -= before.punchedRuns
    report.punchedBytes -= before.punchedBytes
    report.compactedSegments -= before.compactedSegments
    report.movedFrames -= before.movedFrames
    report.reencodedFrames -= before.reencodedFrames
    report.recompressedFrames -= before.recompressedFrames
    report.movedRecords -= before.movedRecords
    report.writtenBytes -= before.writtenBytes
    report.postponements -= before.postponements
    report.indexCompactions -= before.indexCompactions
    return report
  }
}
