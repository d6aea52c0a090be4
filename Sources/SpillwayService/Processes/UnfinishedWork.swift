internal import Threads

/// What a tool has begun and must not leave behind when a signal ends it: ^C, SIGTERM, SIGHUP.
///
/// A thread waits for the signals; none reaches a thread in the middle of its work. It tidies up and lets the process end
/// by the signal. One for a process, made before other threads start.
final class UnfinishedWork: @unchecked Sendable {
  // Sendable: `undo` is guarded by `lock`.
  private let lock = Lock()
  private var undo: [@Sendable () -> Void] = []

  /// From here on the signals are waited for.
  init() throws(ServiceError) {
    TerminationSignals.blockHeeded()
    let watcher = WorkerThread(name: "signals") { [self] in
      var number = TerminationSignals.wait()
      while !TerminationSignals.isEnding(number) { number = TerminationSignals.wait() }
      lock.withLock {
        for step in undo.reversed() { step() }
        TerminationSignals.end(by: number)
      }
    }
    guard watcher != nil else {
      throw .failed("no thread is left to wait for signals; raise the limit of processes")
    }
  }

  /// From here on `step` is carried out, on another thread, when a signal comes; later steps go first.
  func onSignal(_ step: @escaping @Sendable () -> Void) { lock.withLock { undo.append(step) } }

  /// Carries out `body`, before or after which a signal comes but not meanwhile. When it returns there is nothing to undo.
  func settle(_ body: () throws(ServiceError) -> Void) throws(ServiceError) {
    lock.lock()
    defer { lock.unlock() }
    try body()
    undo = []
  }
}
