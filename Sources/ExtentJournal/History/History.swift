internal import Threads

// Where the horizon is and what holds it: how much history is wanted, and who reads the past now.
//
// 1. The state at the end of a batch is what a rebuild makes of all records up to it. From the horizon on no record that
//    such a rebuild needs is freed: what an index commit supersedes is held (IndexTables+Held) until the horizon has
//    reached the end of that commit.
// 2. The horizon never moves back. It moves either by a commit, before it supersedes anything (`horizon(ofCommit:)`), or
//    by upkeep, which then lets go of what was held (`advance`). Both run in the indexer's turn.
// 3. A pin at a sequence keeps the horizon from passing it. It is taken under the lock under which the horizon moves, so
//    it is either refused or seen.
// 4. Without a limit and without pins nothing is held, and the horizon is the end of the last commit.
// 5. Of an index that is built again nobody knows what was held: the horizon becomes its end, and pins are lost.

/// What people should know of a horizon.
enum HorizonNews {
  /// History has begun to give way to what is written now.
  case givesWay
  /// Space is short, and a reader of the state at that sequence keeps history from giving way.
  case heldBy(UInt64)
}

/// See the note at the top of the file.
final class History: @unchecked Sendable {
  // Sendable: the variables are guarded by `lock`, under which nothing else is taken.
  private let lock = Lock()
  private let limit: HistoryLimit
  /// Nil until an index that was lost has caught up.
  private var current: Horizon?
  private var pins: [UInt64: Int] = [:]
  private var marks = HorizonMarks()
  private var hasSeeds = false
  /// Counts the times that what was held was lost.
  private var epoch: UInt64 = 0
  private var givesWay = false
  private var isHeldBack = false

  /// The history of a journal whose index says that the horizon is `stored`: nil when it says nothing.
  init(_ limit: HistoryLimit, stored: Horizon?, applied: UInt64) {
    // A look at a journal that keeps no history is no reason to begin one.
    self.limit = limit == .all && (stored.map { $0.sequence >= applied } ?? true) ? .none : limit
    current = stored
  }

  /// The horizon; nil while an index that was lost has not caught up.
  var horizon: Horizon? { lock.withLock { current } }

  /// Whether superseded data is kept now.
  var isKept: Bool { lock.withLock { limit != .none || !pins.isEmpty } }

  /// Where the horizon is when a commit that ends at `sequence` has been made. It holds what it supersedes if that is
  /// before its end.
  func horizon(ofCommit sequence: UInt64) -> Horizon {
    lock.withLock {
      if let current, limit != .none || !pins.isEmpty || current.sequence >= sequence { return current }
      let moved = Horizon(sequence: sequence, timeNanoseconds: WallClock.nanoseconds())
      current = moved
      return moved
    }
  }

  /// As `horizon(ofCommit:)`, while the journal is being opened: an index that was lost has not caught up then.
  func horizon(ofRecovery sequence: UInt64) -> Horizon {
    guard lock.withLock({ current == nil }) else { return horizon(ofCommit: sequence) }
    return Horizon(sequence: sequence, timeNanoseconds: WallClock.nanoseconds())
  }

  /// A commit that ended at `end` was made.
  func note(_ end: AppliedPosition) {
    lock.withLock {
      marks.add(
        HorizonMarks.Mark(
          sequence: end.sequence, segment: end.segment, offset: end.offset,
          timeNanoseconds: WallClock.nanoseconds()))
    }
  }

  /// Whether marks from before the journal was opened are still to be told, by `seed`.
  var wantsSeeds: Bool { lock.withLock { !hasSeeds && limit != .none && limit != .all } }

  /// Tells the ends of segments that were there when the journal was opened.
  func seed(_ earlier: [HorizonMarks.Mark]) {
    lock.withLock {
      hasSeeds = true
      marks.prepend(earlier.filter { $0.sequence > current?.sequence ?? 0 })
    }
  }

  /// Moves the horizon as far as it may go. With `isShort` history gives way: space is needed for what is written now.
  /// `sizes` is only asked when the bytes of segments matter. Returns where it is now, and what is new about that.
  func advance(
    isShort: Bool, applied: AppliedPosition, sizes: () throws(JournalError) -> [UInt64: UInt64]
  ) throws(JournalError) -> (horizon: Horizon, news: HorizonNews?)? {
    let rule = isShort && limit != .all ? HistoryLimit.none : limit
    let (start, needsSizes) = lock.withLock { () -> (Horizon?, Bool) in
      guard case .bytes = rule, let current, current.sequence < applied.sequence else {
        return (current, false)
      }
      return (current, true)
    }
    guard start != nil else { return nil }
    let found = needsSizes ? try sizes() : [:]
    return lock.withLock {
      guard var moved = current else { return nil }
      let target = marks.target(rule, now: WallClock.nanoseconds(), sizes: found)
      let bound = pins.keys.min() ?? .max
      // Not the bound itself: it need not be the end of a batch.
      if let target, let mark = marks.marks.last(where: { $0.sequence <= min(target.sequence, bound) }),
        mark.sequence > moved.sequence
      {
        moved = Horizon(sequence: mark.sequence, timeNanoseconds: mark.timeNanoseconds)
      }
      var news: HorizonNews?
      let isHeld = isShort && (target?.sequence ?? 0) > bound
      if isHeld, !isHeldBack { news = .heldBy(bound) }
      isHeldBack = isHeld
      let hasYielded = isShort && !givesWay && limit != .none && moved != current
      if hasYielded { news = news ?? .givesWay }
      givesWay = isShort && (givesWay || hasYielded)
      current = moved
      marks.forget(through: moved.sequence)
      return (moved, news)
    }
  }

  // MARK: - Pins

  /// A reader of the state at `sequence`: the horizon does not pass it before `unpin`. Throws `.usage` when it has.
  func pin(_ sequence: UInt64) throws(JournalError) -> UInt64 {
    try lock.withLock { () throws(JournalError) in
      guard let current else {
        throw JournalError(.failed, "the index is being built again; try again when that is done")
      }
      guard sequence >= current.sequence else { throw BatchEnds.tooOld(sequence, current) }
      pins[sequence, default: 0] += 1
      return epoch
    }
  }

  /// A reader of the state at `sequence` is gone.
  func unpin(_ sequence: UInt64) {
    lock.withLock {
      let left = (pins[sequence] ?? 1) - 1
      pins[sequence] = left > 0 ? left : nil
    }
  }

  /// Whether what was pinned when `pin` returned `epoch` is still held.
  func isHeld(since epoch: UInt64) -> Bool { lock.withLock { self.epoch == epoch } }

  /// An index was built again, up to `end`: what the old one held is not known any more. True when there was anything.
  func indexWasRebuilt(to end: AppliedPosition) -> Bool {
    lock.withLock {
      let hadPast = current.map { $0.sequence < end.sequence } ?? false
      current = Horizon(sequence: end.sequence, timeNanoseconds: WallClock.nanoseconds())
      marks.forget(through: end.sequence)
      epoch += 1
      return hadPast
    }
  }
}
