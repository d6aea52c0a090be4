internal import Threads

/// Ends reads that have been parked for too long.
final class Timekeeper: @unchecked Sendable {
  // Sendable: `isEnding` is guarded by the ledger's lock.
  private let ledger: Ledger
  private let timeoutNanoseconds: UInt64
  private var isEnding = false
  private var thread: WorkerThread?

  /// No thread is started for a timeout of 0: reads wait for ever.
  init(ledger: Ledger, timeoutNanoseconds: UInt64) {
    self.ledger = ledger
    self.timeoutNanoseconds = timeoutNanoseconds
  }

  func start() throws(JournalError) {
    guard timeoutNanoseconds > 0 else { return }
    guard let thread = WorkerThread(name: "timeout", { self.loop() }) else {
      throw JournalError(.failed, "no thread left for read timeouts; raise the limit on processes")
    }
    self.thread = thread
  }

  func end() {
    ledger.lock.withLock {
      isEnding = true
      ledger.parkedChanged.broadcast()
    }
    thread?.join()
    thread = nil
  }

  private func loop() {
    while let due = nextDue() {
      for read in due { read.wake(.timedOut) }
    }
  }

  /// Waits for the next reads to time out and takes them; nil at the end.
  private func nextDue() -> [ParkedRead]? {
    ledger.lock.lock()
    defer { ledger.lock.unlock() }
    while !isEnding {
      let now = MonotonicClock.nanoseconds()
      let limit = now - min(now, timeoutNanoseconds)
      var due: [ParkedRead] = []
      for layer in ledger.layers.values { due += layer.parked.take { $0.since <= limit } }
      if !due.isEmpty { return ledger.woken(due) }
      let oldest = ledger.layers.values.compactMap { $0.parked.findOldest() }.min()
      if let oldest {
        _ = ledger.parkedChanged.wait(until: oldest + timeoutNanoseconds)
      } else {
        ledger.parkedChanged.wait()
      }
    }
    return nil
  }
}
