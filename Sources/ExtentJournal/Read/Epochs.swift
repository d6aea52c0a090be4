internal import Threads

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

  /// Nobody is reading.
  package init() { left = Condition(lock) }

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
        hooks.reach(.reclaimWaits)
        left.wait()
      }
    }
  }
}
