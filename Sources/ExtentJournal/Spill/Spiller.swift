internal import BlockFile
internal import Bytes
internal import Threads

// From the ring to a segment, in two threads: one packs the next batch while the other writes the last one.
//
// A batch is taken when 8 MiB are pending, when the oldest record is five seconds old, when a FLUSH waits, when a
// writer waits for room in the ring or for space on the disk, or at the end. Batches are taken, written and published in
// sequence order. An idle second after a FLUSH an empty batch is written: its commit record says that what was flushed
// is durable, so that no damage to it can later pass for a torn tail.
// When the disk is full the batch stays where it is, in the ring: the writer thread tries again each second and says
// so once. Any other error poisons the journal.
final class Spiller: @unchecked Sendable {
  // Sendable: the handover slot and the end flags are guarded by the ledger's lock.
  private let ledger: Ledger
  private let ring: SpoolRing
  private let admission: Admission
  private let refusesWhenFull: Bool
  private let writer: SegmentWriter
  private let epochs: Epochs
  private let compressor: BatchCompressor
  private let log: JournalLog
  private let poison: (JournalError) -> Void
  private let handover: Condition
  private var packed: PackedBatch?
  private var packerIsDone = false
  /// When the empty batch is due that records what a FLUSH made durable.
  private var markDue: UInt64?
  /// Whether the disk had nothing to do before its last batch: then it is the packers that a spill waits for.
  private var diskHasWaited = false
  /// Whether somebody wants the open segment ended, and what came of it.
  private var sealIsWanted = false
  private var isEnding = false
  private var isAbandoning = false
  private var threads: [WorkerThread] = []

  /// Pending bytes at which a batch is made, and the most one takes.
  static let batchBytesTarget = 8 << 20
  static let batchBytesMax = 12 << 20
  /// How long a record may wait for company.
  static let ageMaxNanoseconds: UInt64 = 5_000_000_000
  private let retryNanoseconds: UInt64
  private let markNanoseconds: UInt64

  init(
    ledger: Ledger, ring: SpoolRing, admission: Admission, writer: SegmentWriter, epochs: Epochs,
    coreCount: Int, retryNanoseconds: UInt64, markNanoseconds: UInt64, refusesWhenFull: Bool,
    log: @escaping JournalLog, poison: @escaping (JournalError) -> Void
  ) {
    self.ledger = ledger
    self.poison = poison
    self.retryNanoseconds = retryNanoseconds
    self.markNanoseconds = markNanoseconds
    self.ring = ring
    self.admission = admission
    self.refusesWhenFull = refusesWhenFull
    self.writer = writer
    self.epochs = epochs
    self.log = log
    compressor = BatchCompressor(file: ring.file, coreCount: coreCount)
    handover = Condition(ledger.lock)
  }

  /// Starts the two threads.
  func start() throws(JournalError) {
    // Packing is all computing: it gives way to the threads that acknowledge writes.
    for (name, isBackground, body) in [("spill-pack", true, packLoop), ("spill-write", false, writeLoop)] {
      guard let thread = WorkerThread(name: name, isBackground: isBackground, { body() }) else {
        throw JournalError(.failed, "no thread left for \(name); raise the limit on processes")
      }
      threads.append(thread)
    }
  }

  /// Ends the threads, with `spilling` after everything pending is spilled. With a full disk it gives up at once; what
  /// is not spilled stays in the ring.
  func end(spilling: Bool) {
    ledger.lock.withLock {
      isEnding = true
      isAbandoning = !spilling
      ledger.work.broadcast()
      ledger.progress.broadcast()
    }
    for thread in threads { thread.join() }
    compressor.end()
  }

  /// What the wait for work sleeps until, or nil when there is some. The ledger's lock is held.
  private var nothingToDoUntil: UInt64? {
    guard let oldest = ledger.pending.first, !isAbandoning else { return .max }
    if isEnding || ledger.pendingByteCount >= Self.batchBytesTarget
      || ledger.isFlushWaiting
      || ring.isUnderPressure || admission.isUnderPressure
    {
      return nil
    }
    let due = oldest.since + Self.ageMaxNanoseconds
    return due > MonotonicClock.nanoseconds() ? due : nil
  }

  private func packLoop() {
    while let entries = nextEntries() {
      ledger.hooks.reach(.batchTaken)
      let batch = compressor.pack(entries, effort())
      ledger.hooks.reach(.batchPacked)
      ledger.lock.withLock {
        while packed != nil { handover.wait() }
        packed = batch
        handover.broadcast()
      }
    }
    ledger.lock.withLock {
      packerIsDone = true
      handover.broadcast()
    }
  }

  private func effort() -> PackingEffort {
    let used = ring.usedByteCount
    return ledger.lock.withLock {
      LevelLadder.effort(
        used: used, capacity: ring.file.capacity,
        flushByteCount: ledger.isFlushWaiting ? ledger.pendingByteCount : 0,
        diskHasWaited: diskHasWaited)
    }
  }

  private func nextEntries() -> [PendingRecord]? {
    ledger.lock.lock()
    defer { ledger.lock.unlock() }
    while let until = nothingToDoUntil {
      if isEnding || ledger.failure != nil { return nil }
      if until == .max { ledger.work.wait() } else { _ = ledger.work.wait(until: until) }
    }
    if ledger.failure != nil { return nil }
    return ledger.takeBatch(byteCount: Self.batchBytesMax)
  }

  private func writeLoop() {
    while true {
      ledger.lock.lock()
      diskHasWaited = packed == nil
      while packed == nil, !packerIsDone { waitForHandover() }
      let next = packed
      let isAbandoning = isAbandoning
      ledger.lock.unlock()
      guard let next else { return }
      let written = !isAbandoning && write(next)
      ledger.lock.withLock {
        packed = nil
        handover.broadcast()
      }
      if !written { return drain() }
    }
  }

  /// A FLUSH made everything written so far durable.
  func noteFlush() {
    ledger.lock.withLock {
      markDue = MonotonicClock.nanoseconds() + markNanoseconds
      handover.broadcast()
    }
  }

  /// Ends the open segment, if nothing comes in between: what comes next goes into another one, and if nothing comes an
  /// empty batch does, so that the index gets there. Returns when that is done, or will not be.
  func sealWhenIdle() throws(JournalError) {
    try ledger.lock.withLock { () throws(JournalError) in
      sealIsWanted = true
      handover.broadcast()
      while sealIsWanted {
        if let failure = ledger.failure { throw failure }
        // A batch that came in between may find no room, and a close must not wait for that.
        if isEnding || packerIsDone || ledger.isClosing || ledger.spillStall != nil {
          sealIsWanted = false
          return
        }
        _ = handover.wait(until: MonotonicClock.nanoseconds() + 100_000_000)
      }
    }
  }

  /// The lock is held.
  private func sealNow() {
    ledger.lock.unlock()
    do throws(FileError) {
      try writer.seal()
      ledger.publish(try writer.append(.empty()), spooled: [])
    } catch {
      // Without room the segment stays as it is.
      if !error.isNoSpace { poison(JournalError(error)) }
    }
    ledger.lock.lock()
    sealIsWanted = false
    handover.broadcast()
  }

  /// Waits for a batch; writes the empty one when it is due and nothing else is to be written. The lock is held.
  private func waitForHandover() {
    if sealIsWanted { return sealNow() }
    guard let due = markDue else { return handover.wait() }
    guard MonotonicClock.nanoseconds() >= due else {
      _ = handover.wait(until: due)
      return
    }
    markDue = nil
    guard ledger.pending.isEmpty, ledger.failure == nil, writer.hasUnrecordedDurability else { return }
    ledger.lock.unlock()
    defer { ledger.lock.lock() }
    do throws(FileError) {
      ledger.publish(try writer.append(.empty()), spooled: [])
    } catch {
      // It is no loss when there is no room for it.
      if !error.isNoSpace { poison(JournalError(error)) }
    }
  }

  /// After a failure: takes what the packer still hands over, so that it can end.
  private func drain() {
    ledger.lock.withLock {
      sealIsWanted = false
      handover.broadcast()
      while true {
        while packed == nil, !packerIsDone { handover.wait() }
        if packed == nil { return }
        packed = nil
        handover.broadcast()
      }
    }
  }

  /// Writes one batch, publishes it and gives its ring space back. False when the journal cannot go on.
  private func write(_ batch: PackedBatch) -> Bool {
    var isStalled = false
    while true {
      do throws(FileError) {
        let published = try writer.append(batch)
        admission.didWrite(batch.entries.reduce(0) { $0 + $1.slot.admittedByteCount })
        if isStalled {
          log(.info, "space has returned; spilling goes on")
          ring.refusePayloads(nil)
          for read in ledger.setStall(nil) { read.wake(.retry) }
        }
        ledger.publish(published, spooled: batch.entries)
        ledger.hooks.reach(.batchPublished)
        if !ledger.hooks.has(.ringReusedUnderReaders) { epochs.waitForEarlierReaders() }
        if let last = batch.lastSequence { ring.file.spilledThrough = last }
        ring.retire(batch.entries.map(\.slot.position))
        ledger.hooks.reach(.ringRetired)
        compressor.recycle(batch)
        return true
      } catch {
        guard error.isNoSpace else {
          poison(JournalError(error))
          return false
        }
        if !isStalled {
          isStalled = true
          let reason = JournalError(error)
          log(.error, "disk full: \(reason.message)")
          for read in ledger.setStall(reason) { read.wake(.retry) }
          if refusesWhenFull { ring.refusePayloads(reason) }
          if ledger.lock.withLock({ ledger.isClosing }) { ring.close(.closing) }
        }
        if !waitForSpace() { return false }
      }
    }
  }

  /// Waits a second before the next attempt. False when the journal is being closed: the ring keeps the data.
  private func waitForSpace() -> Bool {
    let until = MonotonicClock.nanoseconds() + retryNanoseconds
    ledger.lock.lock()
    defer { ledger.lock.unlock() }
    while !isEnding, ledger.progress.wait(until: until) {}
    return !isEnding
  }
}
