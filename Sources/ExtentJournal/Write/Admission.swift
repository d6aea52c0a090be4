internal import BlockFile
internal import Bytes
internal import DequeModule
internal import Threads

// Who may write while the disk fills up.
//
// 1. A write is admitted only if the worst that it can take fits what SpaceAccount has left. So the ring can always be
//    spilled, and a FLUSH ends.
// 2. What does not fit waits for what compression gives back: everything acknowledged before is spilled at once, and
//    the filesystem is asked again. First come, first served: a large write is not starved by small ones.
//    If that is not enough upkeep is asked to give back at once what it can, once until space has returned.
// 3. If it does not fit even then, `--when-full` says what happens: it waits for space (stall), fails (enospc), or is
//    refused for its caller to drop it and taint the generation (taint).
// 4. Records without payload are never asked about: a TRIM may be what frees space.
//
// The filesystem is asked once for every batch written and every 16 MiB admitted, and by whoever waits; never under the lock, for
// which writers would wait. An answer counts if nobody has asked later and been answered before: so what a batch has taken
// is in `free` before its promise is taken back. A guess that was too good (others write there, too) ends as it would
// without all this: the spiller finds the disk full.

/// The gate before the ring. See the note above.
final class Admission: @unchecked Sendable {
  // Sendable: the variables are guarded by `lock`. The ledger's lock may be held when it is taken, not the reverse.
  private let files: any FileStore
  private let ledger: Ledger
  private let whenFull: WhenFull
  private let retryNanoseconds: UInt64
  private let quota: Quota?
  /// What the segments and the index take on disk.
  private let owned: @Sendable () -> (segments: UInt64, index: UInt64)
  private let reserveFile: SpaceReserve
  private var forecast = SpaceForecast()
  private let log: JournalLog
  private let lock = Lock()
  private var account = SpaceAccount()
  /// Questions to the filesystem so far, and the last one that was answered.
  private var asked: UInt64 = 0
  private var answered: UInt64 = 0
  private var waiting = Deque<UInt64>()
  private var lastTicket: UInt64 = 0
  private var isFull = false
  /// Set before any thread starts.
  weak var upkeep: Upkeep?

  init(
    files: any FileStore, ledger: Ledger, whenFull: WhenFull, retryNanoseconds: UInt64,
    quota: Quota?, owned: @escaping @Sendable () -> (segments: UInt64, index: UInt64),
    reserveFile: SpaceReserve, log: @escaping JournalLog
  ) {
    self.reserveFile = reserveFile
    self.quota = quota
    self.owned = owned
    self.files = files
    self.ledger = ledger
    self.whenFull = whenFull
    self.retryNanoseconds = retryNanoseconds
    self.log = log
  }

  /// Whether a write waits for space: what is pending should be spilled now.
  var isUnderPressure: Bool { lock.withLock { !waiting.isEmpty } }

  /// Admits a write that takes at most `byteCount` bytes of segments. Every byte is released once: by `release`, or by
  /// `didWrite`. Throws `.noSpace` when there is none (not under `stall`), under `taint` at `deadline` (nanoseconds of
  /// MonotonicClock) at the latest.
  func admit(_ byteCount: Int, until deadline: UInt64?) throws(JournalError) {
    if lock.withLock({ account.shouldAsk }) { ask() }
    let isAdmitted = lock.withLock {
      guard waiting.isEmpty, account.fits(byteCount) else { return false }
      account.admit(byteCount)
      return true
    }
    if !isAdmitted { try wait(byteCount, until: deadline) }
    if lock.withLock({ isFull && waiting.isEmpty }) { declareSpace() }
  }

  /// Whether less can be admitted than is kept free, or somebody waits for space.
  var isNearlyFull: Bool {
    ask()
    return lock.withLock {
      !waiting.isEmpty || isFull || account.availableByteCount < account.reserveByteCount
    }
  }

  /// What is kept free, or kept as blocks of a file, in bytes.
  var reserveByteCount: UInt64 {
    if lock.withLock({ account.shouldAsk }) { ask() }
    return lock.withLock { account.reserveByteCount } + reserveFile.byteCount
  }

  /// Takes or lets go the blocks that are kept for upkeep, as there is room and the journal is large. For upkeep alone.
  func adaptReserve() {
    ask()
    let owned = owned()
    reserveFile.adapt(
      ownedBytes: owned.segments + owned.index, availableBytes: lock.withLock { account.availableByteCount })
    ask()
  }

  /// What more can be admitted, and in how many seconds it is used up, if that can be said.
  var outlook: (availableByteCount: UInt64, secondsToFull: UInt64?) {
    ask()
    let owned = owned()
    return lock.withLock {
      let available = account.availableByteCount
      let seconds = forecast.seconds(
        freeBytes: available, ownedBytes: owned.segments + owned.index, at: MonotonicClock.nanoseconds())
      return (available, seconds)
    }
  }

  /// Counts what was admitted in another form, or in another life of the journal.
  func add(_ byteCount: Int) { lock.withLock { account.admit(byteCount) } }

  /// Takes an admission back: the write did not come to pass.
  func release(_ byteCount: Int) { lock.withLock { account.release(byteCount) } }

  /// A batch is in its segment, for which `byteCount` bytes had been admitted. Call it before the batch is published:
  /// who waits for space takes that as the sign that the space is counted.
  func didWrite(_ byteCount: Int) {
    ask()
    lock.withLock { account.release(byteCount) }
  }

  /// Asks the filesystem. The lock is not held.
  private func ask() {
    let question = lock.withLock {
      asked += 1
      return asked
    }
    var space = FileSpace.unlimited
    do throws(FileError) {
      space = try files.space()
    } catch {
      // Then the spiller finds out whether there is space.
      log(.warning, "the free space is not known: \(error)")
    }
    let owned = owned()
    let held = reserveFile.byteCount
    lock.withLock {
      forecast.note(owned.segments + owned.index, at: MonotonicClock.nanoseconds())
      guard question > answered else { return }
      answered = question
      guard let quota else { return account.learn(space, held: held) }
      account.learn(
        quota.space(ownedBytes: owned.segments + owned.index + held, of: space),
        reserve: quota.reserve(indexBytes: owned.index), held: held)
    }
  }

  // MARK: - Waiting

  private func wait(_ byteCount: Int, until deadline: UInt64?) throws(JournalError) {
    let ticket = lock.withLock {
      lastTicket += 1
      waiting.append(lastTicket)
      return lastTicket
    }
    defer { leave(ticket) }
    let target = ledger.lock.withLock {
      ledger.work.signal()
      return ledger.lastSequence
    }
    var round: UInt64?
    while true {
      let (version, isDrained) = try look(target)
      if lock.withLock({ waiting.first == ticket }) { ask() }
      let isFirst = lock.withLock { () -> Bool? in
        guard waiting.first == ticket else { return false }
        guard account.fits(byteCount) else { return true }
        account.admit(byteCount)
        return nil
      }
      guard let isFirst else { return }
      let isLate = deadline.map { MonotonicClock.nanoseconds() >= $0 } ?? false
      if isDrained, isFirst, hasReclaimed(&round) || isLate { try declareFull() }
      if isLate { throw full }
      let retry = MonotonicClock.nanoseconds() + retryNanoseconds
      ledger.lock.withLock {
        if ledger.spaceVersion == version { _ = ledger.progress.wait(until: min(retry, deadline ?? .max)) }
      }
    }
  }

  private var full: JournalError {
    guard let quota else { return JournalError(.noSpace, "the disk of the journal is full; free some space") }
    return JournalError(
      .noSpace, "the journal has used up its quota of \(ByteCount.text(quota.byteCount)), or its disk is full"
    )
  }

  /// Where the spill is: whether everything up to `target` has given back what it did not need.
  private func look(_ target: UInt64) throws(JournalError) -> (version: UInt64, isDrained: Bool) {
    try ledger.lock.withLock { () throws(JournalError) in
      if let failure = ledger.failure { throw failure }
      let isDrained = ledger.spilledThrough >= target || ledger.spillStall != nil
      if isDrained, ledger.isClosing { throw .closing }
      return (ledger.spaceVersion, isDrained)
    }
  }

  /// Whether upkeep has given back what it could since the caller began to wait; `round` is for this alone. Once the disk is known
  /// to be full nobody waits for that.
  private func hasReclaimed(_ round: inout UInt64?) -> Bool {
    guard !lock.withLock({ isFull }), let upkeep else { return true }
    guard let asked = round else {
      round = upkeep.askForRound()
      return round == nil
    }
    return upkeep.hasRun(asked)
  }

  /// There is no space, whatever is spilled and given back: what `--when-full` says.
  private func declareFull() throws(JournalError) {
    let isNews = lock.withLock {
      defer { isFull = true }
      return !isFull
    }
    if isNews { log(.error, "disk full: \(whenFull.sentence)") }
    switch whenFull {
    case .stall: for read in ledger.setShortage(full) { read.wake(.retry) }
    case .enospc: throw full
    case .taint: break
    }
  }

  private func declareSpace() {
    let isNews = lock.withLock {
      defer { isFull = false }
      return isFull
    }
    guard isNews else { return }
    log(.info, "space has returned; writing goes on")
    for read in ledger.setShortage(nil) { read.wake(.retry) }
  }

  private func leave(_ ticket: UInt64) {
    lock.withLock { waiting.removeAll { $0 == ticket } }
    // The next in line may be first now.
    ledger.signalSpace()
  }
}

extension WhenFull {
  /// What happens to writers, for the log.
  fileprivate var sentence: String {
    switch self {
    case .stall: "writers wait for space"
    case .enospc: "writes fail until there is space"
    case .taint: "what does not fit is dropped, and its generation tainted"
    }
  }
}
