internal import Threads

/// Why the daemon stops, and how that ended: what the threads that ask and the thread that stops tell each
/// other.
final class StopRequest: @unchecked Sendable {
  // Sendable: `reason` and `ending` are guarded by `lock`.

  /// Who ended the daemon.
  enum Reason: Equatable {
    /// A signal.
    case signal(Int32)
    /// COMMAND of `--run` is over.
    case commandEnded
    /// `spillway ctl shutdown`.
    case asked
    /// The parent of a session's engine has ended.
    case parentGone
  }

  private enum Ending {
    case closed
    case failed(ServiceError)
  }

  private let lock = Lock()
  private let settled: Condition
  private var reason: Reason?
  private var ending: Ending?

  init() { settled = Condition(lock) }

  /// Asks the daemon to stop. The first reason counts.
  func post(_ newReason: Reason) {
    lock.withLock { reason = reason ?? newReason }
    TerminationSignals.wake()
  }

  /// Waits for a signal or for someone to post. Call it from the thread that stops the daemon.
  func wait() -> Reason {
    while true {
      let signal = TerminationSignals.wait()
      if let reason = lock.withLock({ reason }) { return reason }
      if TerminationSignals.isEnding(signal) { return .signal(signal) }
    }
  }

  /// The journal is closed, or could not be. Lets go everyone in `waitUntilSettled`.
  func settle(_ failure: ServiceError?) {
    lock.withLock { ending = failure.map { .failed($0) } ?? .closed }
    settled.broadcast()
  }

  /// Waits for `settle` and throws what it was told.
  func waitUntilSettled() throws(ServiceError) {
    let settledEnding = lock.withLock { () -> Ending in
      while true {
        if let ending { return ending }
        settled.wait()
      }
    }
    if case .failed(let error) = settledEnding { throw error }
  }
}
