internal import BlockFile
internal import LMDB
internal import Threads

// Brings what is published into the index: sync the segments, commit the delta, let go of it in memory (rule A). Then
// it removes some stale rows and looks whether some rows tell the truth.
//
// It runs when memory holds many extents, when a thirty-second of the journal (64 MiB at least, 512 MiB at most) lies behind the
// applied position (what is overwritten there nobody can free), when something has waited twenty seconds for durability, and when somebody asks (`run`: replay, close).
//
// It also builds the index anew when it was abandoned (rule F; Index says why). Then nothing is tried twice in a row: an
// attempt that fails is repeated after a second, then after two, up to eight: a run also syncs the segments, which must not
// wait longer than half a minute.
final class Indexer: @unchecked Sendable {
  // Sendable: `turn` lets one run at a time; `isEnding` and `sweepIsDue` are guarded by the ledger's lock.
  private let ledger: Ledger
  private let writer: SegmentWriter
  private let store: SegmentStore
  private let index: Index
  private let history: History
  private let journal: JournalUUID
  private let log: JournalLog
  private let poison: (JournalError) -> Void
  private let audit: IndexAudit
  /// Returns when everybody has left who looked something up before.
  private let waitForReaders: () -> Void
  private let retryNanoseconds: UInt64
  private let progressNanoseconds: UInt64
  /// Held during a whole run, I/O included: it orders runs and guards nothing else.
  private let turn = Lock()
  private var isEnding = false
  /// Whether there may be stale rows to remove; at first nobody knows.
  private var sweepIsDue = true
  private var thread: WorkerThread?

  private static let extentsMax = 100_000
  private static let storedBytesRange: ClosedRange<UInt64> = 64 << 20...512 << 20
  private static let unsyncedNanosecondsMax: UInt64 = 20_000_000_000
  private static let retryNanosecondsMax: UInt64 = 8_000_000_000

  init(
    ledger: Ledger, writer: SegmentWriter, store: SegmentStore, index: Index, history: History,
    journal: JournalUUID,
    host: JournalHost, log: @escaping JournalLog, poison: @escaping (JournalError) -> Void,
    waitForReaders: @escaping () -> Void
  ) {
    self.waitForReaders = waitForReaders
    self.poison = poison
    self.ledger = ledger
    self.writer = writer
    self.store = store
    self.index = index
    self.history = history
    self.journal = journal
    self.log = log
    retryNanoseconds = host.fullDiskRetryNanoseconds
    progressNanoseconds = host.indexProgressNanoseconds
    audit = IndexAudit(
      store: store, rowsPerRun: host.auditRowsPerCommit,
      written: { ledger.lock.withLock { ledger.published } }, log: log)
  }

  func start() throws(JournalError) {
    guard let thread = WorkerThread(name: "index", { self.loop() }) else {
      throw JournalError(.failed, "no thread left for the index; raise the limit on processes")
    }
    self.thread = thread
  }

  func end() {
    ledger.lock.withLock {
      isEnding = true
      ledger.progress.broadcast()
    }
    thread?.join()
    thread = nil
  }

  /// Makes everything published durable and puts it into the index, a new one if it has to be.
  ///
  /// When the journal is being closed an abandoned index stays behind: whoever opens the journal next builds it.
  func run() throws(JournalError) {
    try turn.withLock { () throws(JournalError) in
      ledger.hooks.reach(.indexBegun)
      for isLastAttempt in [false, true] {
        let delta = ledger.beginIndexing()
        if !ledger.hooks.has(.indexBeforeSync) { try sync(through: delta.end.batch) }
        if index.isAbandoned {
          if ledger.lock.withLock({ ledger.isClosing }) { return }
          try rebuild(to: delta.end)
        }
        do throws(LMDBError) {
          let horizon = history.horizon(ofCommit: delta.end.sequence)
          try index.commit(
            delta, journal: journal, horizon: horizon, holding: !ledger.hooks.has(.pastNotHeld))
          history.note(delta.end)
          ledger.hooks.reach(.indexCommitted)
          ledger.finishIndexing(delta)
          break
        } catch {
          // What failed is still in memory. A full disk is tried again later, an abandoned index is built anew at once.
          if isLastAttempt || !error.isDamage { throw JournalError(error) }
        }
      }
      lookAfter()
    }
  }

  /// Runs `body` while nobody commits or builds the index: what it reads of the tables stays so until it returns. Nil when
  /// the tables are not to be believed.
  func inTurn<Result>(_ body: (IndexTables) throws(JournalError) -> Result) throws(JournalError) -> Result? {
    try turn.withLock { () throws(JournalError) -> Result? in
      if index.isAbandoned { return nil }
      return try body(index.current)
    }
  }

  /// Moves the horizon as far as it may go, writes that down, and lets go of what it has passed, in transactions between
  /// which others have their turns. `isShort` and `sizes` as in `History.advance`. Returns what is new.
  func advanceHorizon(
    isShort: Bool, sizes: () throws(JournalError) -> [UInt64: UInt64]
  ) throws(JournalError) -> HorizonNews? {
    var said: HorizonNews?
    while true {
      let isMore = try turn.withLock { () throws(JournalError) -> Bool in
        if index.isAbandoned { return false }
        let applied = ledger.lock.withLock { ledger.indexed }
        guard let (horizon, news) = try history.advance(isShort: isShort, applied: applied, sizes: sizes)
        else { return false }
        said = said ?? news
        do throws(LMDBError) { return try index.release(through: horizon) } catch {
          throw JournalError(error)
        }
      }
      guard isMore else { return said }
    }
  }

  /// Shrinks the index, if it is worth it. What goes wrong is logged: the index in use is as good as before.
  func compactIndex(byteCountMin: UInt64) -> Bool {
    turn.withLock {
      guard !index.isAbandoned else { return false }
      let before = index.usedByteCount
      do throws(JournalError) {
        guard try index.compact(byteCountMin: byteCountMin) else { return false }
        log(.info, "the index takes \(index.usedByteCount >> 10) KiB instead of \(before >> 10)")
        return true
      } catch {
        log(.warning, "the index cannot be made smaller: \(error.message)")
        return false
      }
    }
  }

  /// Removes some stale rows; false when there are none left.
  func sweepSome() throws(JournalError) -> Bool {
    try turn.withLock { () throws(JournalError) in
      if index.isAbandoned { return false }
      do throws(LMDBError) { return try index.sweep() } catch { throw JournalError(error) }
    }
  }

  /// A failed sync is final (rule F).
  private func sync(through batch: UInt64) throws(JournalError) {
    do throws(FileError) {
      try writer.sync(through: batch)
    } catch {
      let failure = JournalError(error)
      if failure.kind != .noSpace { poison(failure) }
      throw failure
    }
  }

  /// New tables, with everything up to `end`, in the place of those that were abandoned.
  private func rebuild(to end: AppliedPosition) throws(JournalError) {
    let start = MonotonicClock.nanoseconds()
    log(.info, "building the index again from \(end.segment) segments")
    do throws(JournalError) {
      let tables = try index.makeTables()
      try IndexRebuild(
        store: store, journal: journal, target: end, log: log, progressNanoseconds: progressNanoseconds,
        isCancelled: { [ledger] in ledger.lock.withLock { ledger.isClosing } }
      ).run(into: tables)
      try index.replace(by: tables)
    } catch {
      index.rebuildFailed(error)
      throw error
    }
    ledger.indexWasRebuilt(to: end)
    if history.indexWasRebuilt(to: end) {
      log(
        .warning,
        "the horizon is now at sequence \(end.sequence): what the old index held for the past is not known any more"
      )
    }
    let milliseconds = (MonotonicClock.nanoseconds() - start) / 1_000_000
    log(.info, "the index is built again, in \(milliseconds / 1000).\(milliseconds % 1000 / 100) s")
  }

  /// What is done after each commit: a bounded part of it.
  private func lookAfter() {
    bury()
    sweep()
    let subjects = ledger.lock.withLock {
      ledger.layers.values.filter { !$0.state.isDropped }.map(\.key).compactMap { key in
        ledger.disks[key.disk].map { IndexAudit.Subject(layer: key, name: $0.name, byteCount: $0.byteCount) }
      }
    }
    let tables = index.current
    if let lie = audit.run(tables, subjects) { index.abandon(tables, lie) }
  }

  /// Has the rows of dropped generations go, once nobody goes through them who looked before the index followed.
  private func bury() {
    let dropped = ledger.buriable
    guard !dropped.isEmpty else { return }
    if !ledger.hooks.has(.buriedUnderReaders) { waitForReaders() }
    for (layer, byteCount) in dropped {
      do throws(LMDBError) {
        if try index.current.bury(layer, byteCount: byteCount) { ledger.buried(layer) }
      } catch {
        log(.debug, "index: \(error)")
      }
    }
  }

  /// Removes some stale rows. What goes wrong is said elsewhere when it matters: damage abandons the index, and for want
  /// of space the next commit fails.
  private func sweep() {
    var isMore = false
    do throws(LMDBError) { isMore = try index.sweep() } catch { log(.debug, "index: \(error)") }
    ledger.lock.withLock { sweepIsDue = isMore }
  }

  private func loop() {
    var indexedBytes: UInt64 = 0
    var saidWhy: String?
    var retryAfter = retryNanoseconds
    var notBefore: UInt64 = 0
    var storedBytesMax = storedBytesDue()
    while let work = waitForWork(&indexedBytes, storedBytesMax, notBefore: notBefore) {
      if work == .sweep {
        turn.withLock { sweep() }
        continue
      }
      do throws(JournalError) {
        try run()
        storedBytesMax = storedBytesDue()
        saidWhy = nil
        retryAfter = retryNanoseconds
        notBefore = 0
      } catch {
        // The extents stay in memory and the next run tries again; only the sync's own failure is final.
        if ledger.lock.withLock({ ledger.failure != nil }) { return }
        if error.kind != .closing, saidWhy != error.message { log(.error, error.message) }
        saidWhy = error.message
        notBefore = MonotonicClock.nanoseconds() + retryAfter
        retryAfter = min(retryAfter * 2, Self.retryNanosecondsMax)
      }
    }
  }

  private enum Work { case run, sweep }

  /// How many bytes of segments the index may be behind.
  private func storedBytesDue() -> UInt64 {
    let range = Self.storedBytesRange
    guard case .success(let bytes) = Result(catching: { () throws(FileError) in try store.ownedByteCount() })
    else {
      return range.lowerBound
    }
    return min(max(bytes / 32, range.lowerBound), range.upperBound)
  }

  private func waitForWork(
    _ indexedBytes: inout UInt64, _ storedBytesMax: UInt64, notBefore: UInt64
  ) -> Work? {
    ledger.lock.lock()
    defer { ledger.lock.unlock() }
    while !isEnding, ledger.failure == nil {
      let now = MonotonicClock.nanoseconds()
      guard now >= notBefore else {
        _ = ledger.progress.wait(until: notBefore)
        continue
      }
      let stored = ledger.counters.storedBytes
      let due = writer.durability.oldestUnsynced.map { $0 + Self.unsyncedNanosecondsMax }
      let isDue = due.map { $0 <= now } ?? false
      if isDue || ledger.activeCount >= Self.extentsMax || stored - indexedBytes >= storedBytesMax
        || index.isAbandoned && !ledger.isClosing
      {
        indexedBytes = stored
        return .run
      }
      if sweepIsDue, !ledger.isClosing { return .sweep }
      if let due { _ = ledger.progress.wait(until: due) } else { ledger.progress.wait() }
    }
    return nil
  }
}
