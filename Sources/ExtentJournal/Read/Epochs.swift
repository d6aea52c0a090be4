internal import Threads

/// The two places in which a reader's bytes may be, each with its epochs: a reader enters both before it looks, leaves the
/// ring's when it has copied what lies there, and the segments' when the last frame is verified and copied. So a slow
/// disk holds up whoever frees segments, and never the ring.
final class ReadEpochs: Sendable {
  let ring = Epochs()
  let segments = Epochs(waiting: .freeingWaits)

  /// Where a reader is; pass it to `leave` once, or to `leaveRing` and `leaveSegments` once each.
  struct Ticket: Sendable {
    fileprivate var ring: UInt64
    fileprivate var segments: UInt64

    /// Of a look that somebody else's ticket covers.
    static let covered = Ticket(ring: .max, segments: .max)
  }

  func enter() -> Ticket { Ticket(ring: ring.enter(), segments: segments.enter()) }
  func leaveRing(_ ticket: Ticket) { ring.leave(ticket.ring) }
  func leaveSegments(_ ticket: Ticket) { segments.leave(ticket.segments) }

  func leave(_ ticket: Ticket) {
    leaveRing(ticket)
    leaveSegments(ticket)
  }
}

/// Keeps bytes in place while somebody may be reading them.
///
/// A reader enters before it looks where its bytes are and leaves after it has copied them. Whoever wants to reuse
/// space first makes new readers look elsewhere, then calls `waitForEarlierReaders`: when that returns, nobody who
/// could have seen the old place is still there. A reader must not wait for anything while inside.
package final class Epochs: @unchecked Sendable {
  // Sendable: guarded by `lock`.
  private let lock = Lock()
  private let left: Condition
  private var current: UInt64 = 0
  private var readers: [UInt64: Int] = [:]
  /// Set before any thread starts.
  var hooks = TestHooks()

  private let stage: Stage

  /// Nobody is reading. `stage` is reached while somebody waits for readers.
  package init(waiting stage: Stage = .reclaimWaits) {
    self.stage = stage
    left = Condition(lock)
  }

  /// Enters the current epoch; pass the result to `leave`.
  package func enter() -> UInt64 {
    lock.withLock {
      if hooks.has(.readerWithoutEpoch) { return .max }
      readers[current, default: 0] += 1
      return current
    }
  }

  /// Leaves `epoch`, which `enter` returned. Once for each entry.
  package func leave(_ epoch: UInt64) {
    lock.withLock {
      if hooks.has(.readerWithoutEpoch) { return }
      guard let count = readers[epoch] else { preconditionFailure("left an epoch twice") }
      if count == 1 {
        readers[epoch] = nil
        left.broadcast()
      } else {
        readers[epoch] = count - 1
      }
    }
  }

  /// Begins a new epoch and returns when every earlier one is empty.
  package func waitForEarlierReaders() {
    lock.withLock {
      current += 1
      let limit = current
      while readers.keys.contains(where: { $0 < limit }) {
        hooks.reach(stage)
        left.wait()
      }
    }
  }
}
