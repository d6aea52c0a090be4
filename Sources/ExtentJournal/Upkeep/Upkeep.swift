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
  let directory: String
  let spiller: Spiller
  let space: (reserve: SpaceReserve, admission: Admission)
  let history: History
  let pastIndexes: PastIndexes
  var admission: Admission { space.admission }
  let work = Lock()
  /// Held by who runs the steps, outside of `work`.
  private let callers = Lock()
  /// How many have asked for quiet, and of how many that is over. Guarded by `lock`.
  private var quiets: (asked: UInt64, over: UInt64) = (0, 0)
  let lock = Lock()
  let press = FramePress()

  /// For each segment what of it was live when nothing more could be done about it.
  var settled: [UInt64: SegmentLiveness] = [:]
  /// What was found out about segments: true as long as what is live of them is the same.
  var usage: [UInt64: SegmentUsage] = [:]
  /// Segments of which compaction could move nothing more, and what was live of them then.
  var exhausted: [UInt64: SegmentLiveness] = [:]
  /// Segments without live frames whose records the past may need: what was needed of them when that was found out, and which
  /// sequence the horizon has to reach before they may go (rule 4).
  var waiting: [UInt64: (sequence: UInt64, records: [Record])] = [:]
  /// Where the horizon and the index were in this turn.
  var bounds: (horizon: UInt64, applied: UInt64) = (0, 0)
  /// Of which generations all records are needed (rule 4).
  var merging: Set<LayerKey> = []
  /// Segments that were recompressed, or tried.
  var recompressed: Set<UInt64> = []
  /// Runs that this process has punched.
  var punched: [UInt64: [Range<UInt64>]] = [:]
  var canPunch = true
  /// The batches whose segments were removed, and the segment that says so; nil when nobody has looked yet.
  var removed: RemovedSegments?
  var removedHome: UInt64?
  var publishedUsage: [UInt64: SegmentUsage] = [:]
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
  /// Rounds of the thread that have begun, that have ended, and up to which one must not wait for its time. Guarded by `lock`.
  var rounds: (begun: UInt64, ended: UInt64, asked: UInt64) = (0, 0, 0)
  /// When the thread looks again for segments that have become cold. For the thread alone.
  var nextColdLook: UInt64 = 0

  /// Segments that one turn looks at.
  static let segmentsPerTurn = 32
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

  /// One step of the work: between two of them whoever needs quiet has it; who comes later waits for the step in turn.
  @discardableResult
  private func step(_ body: () throws(JournalError) -> Bool) throws(JournalError) -> Bool {
    lock.withLock {
      let asked = quiets.asked
      while quiets.over < asked, !isStopping { ended.wait() }
    }
    return try work.withLock(body)
  }

  /// Runs `body` while nothing is moved and nothing freed.
  func inQuiet<Result>(_ body: () throws(JournalError) -> Result) throws(JournalError) -> Result {
    lock.withLock { quiets.asked += 1 }
    defer {
      lock.withLock {
        quiets.over += 1
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
}
