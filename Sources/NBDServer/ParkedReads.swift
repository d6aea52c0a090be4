internal import Bytes
internal import NBDProtocol
internal import Threads

/// A read that waits for data to arrive. It holds no thread and no buffer.
final class ParkedRead: @unchecked Sendable {
  // Sendable: `round` is guarded by the lock of its `ParkedReads`.
  let tag: RequestTag
  let range: ByteRange
  let inOneChunk: Bool
  /// When the request came in (nanoseconds of `MonotonicClock`).
  let since: UInt64
  /// Counts the waiters of this read: only the latest may wake it, and that once.
  fileprivate var round: UInt64 = 0

  init(_ tag: RequestTag, range: ByteRange, inOneChunk: Bool, since: UInt64) {
    self.tag = tag
    self.range = range
    self.inOneChunk = inOneChunk
    self.since = since
  }
}

/// The parked reads of one connection, and the list of those that were woken.
///
/// Invariants: 1. a read is on the list at most once: a waiter that wakes twice, or after a later one was
/// made, does nothing. 2. After `end` nothing enters the list, so that a late wake is harmless. 3. Every read
/// counted in `limit` is uncounted once: by `forget`, or all that are left by `end`. Waiters keep this object
/// alive and never the socket: an export may hold them for as long as it likes.
final class ParkedReads: @unchecked Sendable {
  // Sendable: everything mutable is guarded by `lock`.
  private let lock = Lock()
  private let changed: Condition
  private let limit: ParkLimit
  /// Those that were woken, and why; without a reason those that were handed over.
  private var ready: [(read: ParkedRead, reason: ReadWake?)] = []
  private var parkedCount = 0
  /// Whether the answerer has taken a read that was handed over and is not done with it.
  private var isServing = false
  private var hasEnded = false

  init(limit: ParkLimit) {
    self.limit = limit
    changed = Condition(lock)
  }

  /// Starts to count a read, before its first waiter is made.
  func count() {
    lock.withLock { parkedCount += 1 }
    limit.add(1)
  }

  /// A read is parked no longer: it is being answered.
  func forget(_ read: ParkedRead) {
    let wasCounted = lock.withLock { () -> Bool in
      read.round += 1
      if hasEnded { return false }
      parkedCount -= 1
      return true
    }
    if wasCounted { limit.remove(1) }
  }

  /// The waiter for the next wait of `read`.
  func waiter(for read: ParkedRead) -> ReadWaiter {
    let round = lock.withLock { () -> UInt64 in
      read.round += 1
      return read.round
    }
    return ReadWaiter { reason in self.wake(read, round, reason) }
  }

  private func wake(_ read: ParkedRead, _ round: UInt64, _ reason: ReadWake) {
    lock.withLock {
      guard !hasEnded, read.round == round else { return }
      read.round += 1
      ready.append((read, reason))
      changed.broadcast()
    }
  }

  /// Lists a read that has just come in, so that the answerer serves it beside the reader; it counts as parked. False when
  /// something is listed already: then it is served sooner by whoever asks.
  func handOver(_ read: ParkedRead) -> Bool {
    let isListed = lock.withLock { () -> Bool in
      guard ready.isEmpty, !hasEnded else { return false }
      parkedCount += 1
      ready.append((read, nil))
      changed.broadcast()
      return true
    }
    if isListed { limit.add(1) }
    return isListed
  }

  /// Returns when what was handed over is answered, or has parked.
  func waitForHandedOver() {
    lock.withLock {
      while isServing || ready.contains(where: { $0.reason == nil }), !hasEnded { changed.wait() }
    }
  }

  /// Waits for reads and takes them all, in the order of their waking; what it took before is done with. Nil after `end`.
  func takeReady() -> [(read: ParkedRead, reason: ReadWake?)]? {
    lock.withLock {
      if isServing {
        isServing = false
        changed.broadcast()
      }
      while ready.isEmpty, !hasEnded { changed.wait() }
      if hasEnded { return nil }
      isServing = ready.contains { $0.reason == nil }
      defer { ready = [] }
      return ready
    }
  }

  /// Drops every read, once.
  func end() {
    let dropped = lock.withLock { () -> Int in
      defer {
        hasEnded = true
        parkedCount = 0
        ready = []
        changed.broadcast()
      }
      return parkedCount
    }
    limit.remove(dropped)
  }
}

/// How many reads may be parked on a whole server.
final class ParkLimit: @unchecked Sendable {
  // Sendable: `parked` is guarded by `lock`.
  private let lock = Lock()
  private let freed: Condition
  private let most: Int
  private var parked = 0

  init(_ most: Int) {
    self.most = most
    freed = Condition(lock)
  }

  /// Reads parked now.
  var count: Int { lock.withLock { parked } }

  func add(_ count: Int) { lock.withLock { parked += count } }

  func remove(_ count: Int) {
    guard count > 0 else { return }
    lock.withLock {
      parked -= count
      freed.broadcast()
    }
  }

  /// Waits until one read more may be parked, or `isGone` says that nobody waits for the answer any more: it
  /// is asked every half second, since a dead client's reads must not keep the place.
  func waitForRoom(unless isGone: () -> Bool) {
    while !isGone() {
      let hasRoom = lock.withLock { () -> Bool in
        if parked >= most { _ = freed.wait(until: MonotonicClock.nanoseconds() + 500_000_000) }
        return parked < most
      }
      if hasRoom { return }
    }
  }
}
