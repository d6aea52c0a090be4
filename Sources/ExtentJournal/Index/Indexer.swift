internal import BlockFile
internal import LMDB
internal import Threads

// Brings what is published into the index: sync the segments, commit the delta, let go of it in memory (rule A).
//
// It runs when memory holds many extents, when 512 MiB of segments lie behind the applied position, when something
// has waited twenty seconds for durability, and when somebody asks (`run`: replay, close).
final class Indexer: @unchecked Sendable {
  // Sendable: `turn` lets one run at a time; `isEnding` is guarded by the ledger's lock.
  private let ledger: Ledger
  private let writer: SegmentWriter
  private let index: Index
  private let journal: JournalUUID
  private let log: JournalLog
  private let poison: (JournalError) -> Void
  /// Held during a whole run, I/O included: it orders runs and guards nothing else.
  private let turn = Lock()
  private var isEnding = false
  private var thread: WorkerThread?

  private static let extentsMax = 100_000
  private static let storedBytesMax: UInt64 = 512 << 20
  private static let unsyncedNanosecondsMax: UInt64 = 20_000_000_000

  init(
    ledger: Ledger, writer: SegmentWriter, index: Index, journal: JournalUUID, log: @escaping JournalLog,
    poison: @escaping (JournalError) -> Void
  ) {
    self.poison = poison
    self.ledger = ledger
    self.writer = writer
    self.index = index
    self.journal = journal
    self.log = log
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

  /// Makes everything published durable and puts it into the index.
  func run() throws(JournalError) {
    try turn.withLock { () throws(JournalError) in
      ledger.hooks.reach(.indexBegun)
      let delta = ledger.beginIndexing()
      do throws(FileError) {
        if !ledger.hooks.has(.indexBeforeSync) { try writer.sync(through: delta.end.batch) }
      } catch {
        throw JournalError(error)
      }
      do throws(LMDBError) {
        try index.commit(delta, journal: journal)
      } catch {
        throw JournalError(error)
      }
      ledger.hooks.reach(.indexCommitted)
      ledger.finishIndexing(delta)
    }
  }

  private func loop() {
    var indexedBytes: UInt64 = 0
    var saidWhy: String?
    while waitForWork(&indexedBytes) {
      do throws(JournalError) {
        try run()
        saidWhy = nil
      } catch {
        // The extents stay in memory and the next run tries again; only the sync's own failure is final.
        guard error.kind == .noSpace else { return poison(error) }
        if saidWhy != error.message { log(.error, error.message) }
        saidWhy = error.message
      }
    }
  }

  private func waitForWork(_ indexedBytes: inout UInt64) -> Bool {
    ledger.lock.lock()
    defer { ledger.lock.unlock() }
    while !isEnding, ledger.failure == nil {
      let stored = ledger.counters.storedBytes
      let due = writer.durability.oldestUnsynced.map { $0 + Self.unsyncedNanosecondsMax }
      let isDue = due.map { $0 <= MonotonicClock.nanoseconds() } ?? false
      if isDue || ledger.activeCount >= Self.extentsMax || stored - indexedBytes >= Self.storedBytesMax {
        indexedBytes = stored
        return true
      }
      if let due { _ = ledger.progress.wait(until: due) } else { ledger.progress.wait() }
    }
    return false
  }
}
