internal import Bytes
internal import Threads

// Memory for payloads that cannot lie in the ring while they are received: larger ones than a reservation may be, and
// those whose senders stalled while others waited for the ring.
//
// The bound is for all connections together. Taking waits for its turn. Senders that stall with such memory in hand must
// not hold up those that do not, so when the memory is wanted, those that have stalled longest have to go: as many as it
// takes, and nobody whose payload is coming. Each finds that out itself, when its receiver reports that it is late.

/// The memory for such payloads. See the note above.
final class PrivateMemory: @unchecked Sendable {
  // Sendable: guarded by `lock`.
  private let lock = Lock()
  private let changed: Condition
  private var left: Int
  private let total: Int
  /// How long a sender must have stalled before it may have to go.
  private let patienceNanoseconds: UInt64
  private var holders: [UInt64: Share] = [:]
  /// Who waits, in order.
  private var waiting: [Share] = []
  private var lastNumber: UInt64 = 0

  /// A share of the memory: taken by one payload, given back once.
  struct Share: Sendable {
    fileprivate var number: UInt64
    fileprivate var byteCount: Int
    /// Since when the sender has stalled (nanoseconds of MonotonicClock); nil while its payload comes.
    fileprivate var lateSince: UInt64?
  }

  init(byteCount: Int, patienceNanoseconds: UInt64) {
    left = byteCount
    total = byteCount
    self.patienceNanoseconds = patienceNanoseconds
    changed = Condition(lock)
  }

  /// Takes `byteCount` bytes, or all there is if it is more than that; waits for them. Nil only for a sender that has
  /// itself stalled, since `lateSince`, when it is the one to go.
  func take(_ byteCount: Int, lateSince: UInt64? = nil) -> Share? {
    lock.lock()
    defer { lock.unlock() }
    lastNumber += 1
    let share = Share(number: lastNumber, byteCount: min(byteCount, total), lateSince: lateSince)
    waiting.append(share)
    while waiting[0].number != share.number || left < share.byteCount {
      if mustGo(share) {
        waiting.removeAll { $0.number == share.number }
        changed.broadcast()
        return nil
      }
      if lateSince == nil {
        changed.wait()
      } else {
        _ = changed.wait(until: MonotonicClock.nanoseconds() + Self.lookAgainNanoseconds)
      }
    }
    waiting.removeFirst()
    left -= share.byteCount
    holders[share.number] = share
    changed.broadcast()
    return share
  }

  func giveBack(_ share: Share) {
    lock.withLock {
      guard holders.removeValue(forKey: share.number) != nil else {
        preconditionFailure("memory is given back once")
      }
      left += share.byteCount
      changed.broadcast()
    }
  }

  /// The payload of `share` has stalled since `lateSince`. True when it has to go.
  func isLate(_ share: Share, since lateSince: UInt64) -> Bool {
    lock.withLock {
      holders[share.number]?.lateSince = lateSince
      return mustGo(holders[share.number] ?? share)
    }
  }

  /// The payload of `share` is there.
  func isWhole(_ share: Share) { lock.withLock { holders[share.number]?.lateSince = nil } }

  private static let lookAgainNanoseconds: UInt64 = 100_000_000

  /// Whether `share` is among those that have stalled longest and have to go for the first that waits.
  private func mustGo(_ share: Share) -> Bool {
    guard let first = waiting.first, left < first.byteCount else { return false }
    let now = MonotonicClock.nanoseconds()
    let before = now - min(now, patienceNanoseconds)
    var room = left
    // Who only waits holds nothing; but who waits and has stalled longest goes before those that hold something.
    let late = (Array(holders.values) + waiting).filter { ($0.lateSince ?? .max) <= before }
      .sorted { ($0.lateSince ?? 0, $0.number) < ($1.lateSince ?? 0, $1.number) }
    for candidate in late {
      if candidate.number == share.number { return true }
      if holders[candidate.number] != nil { room += candidate.byteCount }
      if candidate.number == first.number || room >= first.byteCount { return false }
    }
    return false
  }
}
