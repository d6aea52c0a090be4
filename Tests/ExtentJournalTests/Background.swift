import Testing
import Threads

/// Work on a thread of its own that a test waits for, but not for ever.
final class Background: @unchecked Sendable {
  // Sendable: guarded by `lock`; the thread is joined by `finish` alone.
  private let lock = Lock()
  private let changed: Condition
  private var isDone = false
  private var failure: String?
  private var thread: WorkerThread?

  init(_ name: String, _ body: @escaping @Sendable () throws -> Void) throws {
    changed = Condition(lock)
    let started = WorkerThread(name: name) { [self] in
      do { try body() } catch { note("\(error)") }
      lock.withLock {
        isDone = true
        changed.broadcast()
      }
    }
    let running: WorkerThread = try #require(started)
    thread = running
  }

  private func note(_ error: String) { lock.withLock { failure = error } }

  /// Whether it has ended, or does within `milliseconds`.
  func hasEnded(within milliseconds: UInt64 = 0) -> Bool {
    let deadline = MonotonicClock.nanoseconds() + milliseconds * 1_000_000
    return lock.withLock {
      while !isDone { if !changed.wait(until: deadline) { return isDone } }
      return true
    }
  }

  /// Waits for the end, half a minute at most, and expects no error; once more does no harm.
  func finish(_ location: SourceLocation = #_sourceLocation) {
    guard hasEnded(within: 30_000) else {
      Issue.record("it never ended", sourceLocation: location)
      return
    }
    let ended = lock.withLock {
      defer { thread = nil }
      return thread
    }
    ended?.join()
    #expect(failure == nil, sourceLocation: location)
  }
}
