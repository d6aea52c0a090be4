internal import Threads

/// Lets a connection change its export until the connection is retired.
///
/// A client that lost its connection reconnects and sends its unanswered writes again (qemu,
/// `reconnect-delay`). The old connection's copy may still be queued in its socket: applied after the resend,
/// and after what the client wrote next, it would bring old data back. Hence the new connection retires the
/// old one first: after `retire` no change begins, after `waitForEnd` none is in progress.
final class RetireGate: @unchecked Sendable {
  // Sendable: everything mutable is guarded by `lock`.
  private let lock = Lock()
  private let ended: Condition
  private var isRetired = false
  private var isChanging = false

  init() {
    ended = Condition(lock)
  }

  /// Asks to make a change. False when the connection is retired; else `end` must follow.
  func begin() -> Bool {
    lock.withLock {
      if isRetired { return false }
      isChanging = true
      return true
    }
  }

  /// The change is made.
  func end() {
    lock.withLock {
      isChanging = false
      ended.broadcast()
    }
  }

  /// No change begins from now on.
  func retire() {
    lock.withLock { isRetired = true }
  }

  /// Returns when no change is in progress.
  func waitForEnd() {
    lock.withLock {
      while isChanging { ended.wait() }
    }
  }
}
