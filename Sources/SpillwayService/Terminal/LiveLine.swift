internal import Threads

/// A line on a terminal which is renewed while a call that says nothing by itself goes on. Elsewhere it is silent.
struct LiveLine: Sendable {
  /// Nanoseconds between two lines.
  private static let interval: UInt64 = 200_000_000

  /// Runs `body`; meanwhile another thread shows what `text` says, at once and five times a second, for as
  /// long as it says something: what it throws ends the line and not `body`.
  static func show<Result>(
    _ text: @escaping @Sendable () throws(ServiceError) -> String,
    while body: () throws(ServiceError) -> Result
  ) throws(ServiceError) -> Result {
    guard StandardError.isTerminal else { return try body() }
    let end = End()
    let thread = WorkerThread(name: "progress") {
      do throws(ServiceError) {
        repeat { StandardError.write("\r\(try text())\u{1B}[K") } while !end.comes(within: interval)
      } catch {
        // Whoever looks learns from `body` what is wrong.
      }
    }
    defer {
      end.post()
      thread?.join()
      StandardError.write("\r\u{1B}[K")
    }
    return try body()
  }

  private final class End: @unchecked Sendable {
    // Sendable: `isPosted` is guarded by `lock`.
    private let lock = Lock()
    private let change: Condition
    private var isPosted = false

    init() { change = Condition(lock) }

    func post() {
      lock.withLock {
        isPosted = true
        change.broadcast()
      }
    }

    /// Whether it has come, at the latest after so many nanoseconds.
    func comes(within nanoseconds: UInt64) -> Bool {
      let deadline = MonotonicClock.nanoseconds() + nanoseconds
      return lock.withLock {
        while !isPosted, change.wait(until: deadline) {}
        return isPosted
      }
    }
  }
}
