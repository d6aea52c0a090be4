internal import Bytes
internal import Threads

// Upkeep in the background: a thread that looks every two seconds whether the index has gone on, and if so does what there is to
// do. Freeing is cheap and always done; copying takes at most a quarter of the time while a stream comes in, and all of it
// when nothing comes or space is short. When nothing comes it also brings the index up to date, which nobody else does before
// twenty seconds have passed: what was trimmed is given back within seconds.
//
// A writer that finds no space asks for a round at once, and learns when it is over.

extension Upkeep {
  func start() throws(JournalError) {
    guard everyNanoseconds != nil else { return }
    guard let thread = WorkerThread(name: "upkeep", isBackground: true, { self.loop() }) else {
      throw JournalError(.failed, "no thread left for upkeep; raise the limit on processes")
    }
    self.thread = thread
  }

  /// Whoever works stops after the step that it is in, nobody begins, and the thread ends.
  func end() {
    lock.withLock {
      isStopping = true
      ended.broadcast()
    }
    ledger.lock.withLock { ledger.progress.broadcast() }
    thread?.join()
    thread = nil
  }

  private func loop() {
    var seen: UInt64?
    var saidWhy: String?
    while waitForTick() {
      let isAsked = beginRound()
      defer { endRound(isAsked) }
      do throws(JournalError) {
        if ledger.lock.withLock({ ledger.pending.isEmpty && ledger.activeCount > 0 }) { try indexer.run() }
        let version = ledger.lock.withLock { ledger.indexVersion }
        let isIdle = ledger.lock.withLock { ledger.pending.isEmpty && ledger.activeCount == 0 }
        var hasMoved = false
        if version == seen { hasMoved = try advanceIdleHorizon() }
        // Who waits for space does not let the index go on.
        guard
          isAsked || version != seen || hasMoved || space.admission.isUnderPressure
            || isIdle && hasColdSegments
        else { continue }
        let before = doneSoFar.postponements
        _ = try run(yields: true, coldNanoseconds: isIdle ? limits.coldNanoseconds : nil)
        // What could not be freed since somebody reads is tried again.
        seen = doneSoFar.postponements == before ? version : nil
        saidWhy = nil
      } catch {
        if shouldStop { return }
        if error.kind != .closing, saidWhy != error.message { log(.warning, "upkeep: \(error.message)") }
        saidWhy = error.message
      }
    }
  }

  /// Asks for a round that begins after the call, now. Returns its number; nil when no thread works.
  func askForRound() -> UInt64? {
    lock.withLock {
      guard everyNanoseconds != nil, !isStopping else { return nil }
      rounds.asked = rounds.begun + 1
      ended.broadcast()
      return rounds.asked
    }
  }

  /// Whether the round `number` is over, or none comes any more.
  func hasRun(_ number: UInt64) -> Bool { lock.withLock { rounds.ended >= number || isStopping } }

  /// Whether somebody waits for the round.
  private func beginRound() -> Bool {
    lock.withLock {
      rounds.begun += 1
      return rounds.asked == rounds.begun
    }
  }

  private func endRound(_ wasAsked: Bool) {
    lock.withLock { rounds.ended = rounds.begun }
    if wasAsked { ledger.signalSpace() }
  }

  /// Whether a segment has become cold that was not recompressed.
  private var hasColdSegments: Bool {
    let now = WallClock.nanoseconds()
    guard now >= nextColdLook else { return false }
    nextColdLook = now + limits.coldNanoseconds / 10
    return true
  }

  /// Whether a stream comes in.
  var isBusy: Bool { ledger.lock.withLock { !ledger.pending.isEmpty } }

  /// Whether writers wait for space on the disk.
  var isShort: Bool { ledger.lock.withLock { ledger.stall != nil } }

  /// False at the end. A stream that comes in leaves more behind: then it looks eight times as often, and at once when it is asked.
  private func waitForTick() -> Bool {
    let tick = everyNanoseconds ?? .max / 2
    let until = MonotonicClock.nanoseconds() + (isBusy ? tick / 8 : tick)
    return lock.withLock {
      while !isStopping, rounds.asked <= rounds.begun, MonotonicClock.nanoseconds() < until {
        _ = ended.wait(until: until)
      }
      return !isStopping
    }
  }

  /// After a group that took since `begun`: waits three times as long while a stream comes in, so that copying takes no more
  /// than a quarter of the disk and of a processor; half of them when the journal takes more than it should, most of them when it
  /// takes half as much again. Not when space is short.
  func pauseForIngest(since begun: UInt64) {
    guard yieldsToIngest else { return }
    let now = MonotonicClock.nanoseconds()
    let until = now + pauseShare * (now - begun) / 4
    ledger.lock.withLock {
      while !ledger.pending.isEmpty, ledger.stall == nil, ledger.failure == nil, !ledger.isClosing,
        MonotonicClock.nanoseconds() < until
      {
        _ = ledger.progress.wait(until: until)
      }
    }
  }

  /// Ends the open segment when nothing comes in and more than half of what it holds is dead, or `evenLive`, so that it can be
  /// worked on like any other. While writers wait for space a little is worth it: they would wait for ever.
  func sealIdleSegment(evenLive: Bool) throws(JournalError) {
    let (open, isIdle) = ledger.lock.withLock {
      (ledger.indexed, ledger.pending.isEmpty && ledger.published == ledger.indexed && ledger.failure == nil)
    }
    guard isIdle, open.offset >= limits.sealedBytesMin else { return }
    let live = try indexer.inTurn { (tables) throws(JournalError) in try liveSums(tables)[open.segment] }
    guard let live else { return }
    let liveBytes = UInt64(live?.kibibytes ?? 0) * 1024
    let isShort = space.admission.isUnderPressure && liveBytes + limits.sealedBytesMin < open.offset
    guard evenLive || isShort || liveBytes * 2 < open.offset else { return }
    try spiller.sealWhenIdle()
    try indexer.run()
  }
}
