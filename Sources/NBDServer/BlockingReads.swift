internal import Threads

/// The reads of one connection that wait for something slower than the export itself, and the threads that serve them.
///
/// Neither the reader nor the answerer may wait for a source, so such a read is listed here, without a buffer, until a
/// thread is free. There are as many threads as reads that wait, up to `threadsMax`, and one that finds nothing to do for
/// two seconds leaves: an idle connection has none.
final class BlockingReads: @unchecked Sendable {
  // Sendable: everything mutable is guarded by `lock`.
  typealias Entry = (read: ParkedRead, isRetry: Bool)

  private let number: UInt64
  private let lock = Lock()
  private let changed: Condition
  /// What came, and what of it is next: the latter in reverse.
  private var queue: (added: [Entry], next: [Entry]) = ([], [])
  private var idleCount = 0
  private var nextThread = 0
  private var running: [Int: WorkerThread] = [:]
  private var finished: [WorkerThread] = []
  private var hasEnded = false

  /// Most threads of a connection.
  static let threadsMax = 8
  private static let patienceNanoseconds: UInt64 = 2_000_000_000

  /// For the connection of that number.
  init(connection number: UInt64) {
    self.number = number
    changed = Condition(lock)
  }

  /// Lists a read; `serve` is called with it on another thread, unless the connection ends before. False when there is
  /// no thread for it.
  func add(_ entry: Entry, _ serve: @escaping @Sendable (Entry) -> Void) -> Bool {
    let (isServed, joinable) = lock.withLock { () -> (Bool, [WorkerThread]) in
      if hasEnded { return (true, []) }
      queue.added.append(entry)
      changed.signal()
      if queue.added.count + queue.next.count > idleCount, running.count < Self.threadsMax { start(serve) }
      defer { finished = [] }
      return (!running.isEmpty, finished)
    }
    for thread in joinable { thread.join() }
    return isServed
  }

  /// The lock is held.
  private func start(_ serve: @escaping @Sendable (Entry) -> Void) {
    let index = nextThread
    nextThread += 1
    running[index] = WorkerThread(name: "nbd-wait-\(number)") { [self] in
      while let entry = take(index) { serve(entry) }
    }
  }

  /// Waits for a read; nil when the thread `index` is to leave.
  private func take(_ index: Int) -> Entry? {
    lock.lock()
    defer { lock.unlock() }
    var isLate = false
    while !hasEnded {
      if queue.next.isEmpty {
        queue.next = queue.added.reversed()
        queue.added = []
      }
      if let entry = queue.next.popLast() { return entry }
      if isLate { break }
      idleCount += 1
      isLate = !changed.wait(until: MonotonicClock.nanoseconds() + Self.patienceNanoseconds)
      idleCount -= 1
    }
    if let thread = running.removeValue(forKey: index) { finished.append(thread) }
    return nil
  }

  /// Nothing that is listed is served any more.
  func end() {
    lock.withLock {
      hasEnded = true
      queue = ([], [])
      changed.broadcast()
    }
  }

  /// Returns when the last thread has left, after `end`. What they wait for is not ours to cut short: the export's owner
  /// does, if it does not come.
  func join() {
    while true {
      let next = lock.withLock { () -> WorkerThread? in
        finished.popLast() ?? running.popFirst()?.value
      }
      guard let next else { return }
      next.join()
    }
  }
}
