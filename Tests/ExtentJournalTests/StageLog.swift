import ExtentJournal
import Threads

/// The stages that a journal's threads have reached, for tests that hold one of them until another is somewhere.
final class StageLog: @unchecked Sendable {
  // Sendable: guarded by `lock`.
  private let lock = Lock()
  private let changed: Condition
  private var reached: Set<Stage> = []
  private var isOver = false

  init() { changed = Condition(lock) }

  func note(_ stage: Stage) {
    lock.withLock {
      reached.insert(stage)
      changed.broadcast()
    }
  }

  /// Whoever waits goes on: there is nothing more to come.
  func end() {
    lock.withLock {
      isOver = true
      changed.broadcast()
    }
  }

  /// Returns when one of `stages` was reached, or at the end.
  func wait(for stages: Stage...) {
    lock.withLock { while !isOver, reached.isDisjoint(with: stages) { changed.wait() } }
  }
}
