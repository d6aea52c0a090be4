internal import BlockFile
internal import LMDB
internal import Threads

// The horizon in upkeep: it moves before anything is looked for that could be freed.

extension Upkeep {
  /// Moves the horizon as far as it may go and lets go of what it has passed. The caller works.
  func advanceHorizon() throws(JournalError) {
    if history.wantsSeeds { history.seed(try earlierMarks()) }
    let isShort = history.isKept && isSpaceShort
    let news = try indexer.advanceHorizon(isShort: isShort) { () throws(JournalError) in
      try freshSizes()
    }
    switch news {
    case .givesWay:
      log(
        .warning,
        "space is short: history gives way, and the horizon is now at sequence \(history.horizon?.sequence ?? 0)"
      )
    case .heldBy(let sequence):
      log(
        .warning,
        "space is short, and whoever reads sequence \(sequence) keeps what was overwritten since; end that connection or replay"
      )
    case nil: break
    }
  }

  /// As `advanceHorizon`, when nothing else is to be done. True when the horizon moved.
  func advanceIdleHorizon() throws(JournalError) -> Bool {
    guard let before = history.horizon, before.sequence < ledger.lock.withLock({ ledger.indexed.sequence })
    else {
      return false
    }
    try work.withLock { () throws(JournalError) in try advanceHorizon() }
    return history.horizon != before
  }

  /// Whether what is written now needs the space that history takes: writers wait, or could soon.
  private var isSpaceShort: Bool {
    if ledger.lock.withLock({ ledger.stall != nil }) { return true }
    return admission.isNearlyFull
  }

  /// The bytes that segments of fresh batches take, by number.
  private func freshSizes() throws(JournalError) -> [UInt64: UInt64] {
    var sizes: [UInt64: UInt64] = [:]
    do throws(FileError) {
      for number in try store.list(.fresh) {
        sizes[number] = try store.allocatedByteCount(number, .fresh)
      }
    } catch {
      throw failure(error)
    }
    return sizes
  }

  /// The ends of the segments that lie between the horizon and where the journal was opened.
  private func earlierMarks() throws(JournalError) -> [HorizonMarks.Mark] {
    var marks: [HorizonMarks.Mark] = []
    let numbers: [UInt64]
    do throws(FileError) { numbers = try store.list(.fresh) } catch { throw failure(error) }
    var nextCreated = WallClock.nanoseconds()
    let (horizon, applied) = (history.horizon?.sequence ?? 0, ledger.lock.withLock { ledger.indexed })
    for number in numbers.reversed() where number <= applied.segment {
      guard case .success(let segment) = try store.segmentOrFlaw(number), let footer = try segment.footer()
      else { continue }
      guard footer.lastSequence > horizon else { break }
      if footer.lastSequence <= applied.sequence {
        marks.append(
          HorizonMarks.Mark(
            sequence: footer.lastSequence, segment: number, offset: footer.directoryOffset,
            timeNanoseconds: nextCreated))
      }
      nextCreated = segment.superblock.createdNanoseconds
    }
    return marks.reversed()
  }
}
