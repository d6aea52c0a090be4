internal import NBDProtocol
internal import Threads

/// The replies of one connection that wait until what they say survives power loss: to FLUSH, and to changes with FUA.
///
/// The reader thread makes a change, lists its reply here and goes on; the flusher thread takes all that are listed,
/// flushes once for all of them and sends them. A flush covers everything acknowledged before it began, so it covers
/// every change listed when it began. At most `most` are listed; beyond that the reader waits.
final class DurableReplies: @unchecked Sendable {
  // Sendable: everything mutable is guarded by `lock`.
  private let lock = Lock()
  private let changed: Condition
  private var tags: [RequestTag] = []
  private var hasEnded = false

  private static let most = 1024

  init() { changed = Condition(lock) }

  /// Lists the reply to request `tag`. Reader thread only, which also calls `end`.
  func add(_ tag: RequestTag) {
    lock.withLock {
      while tags.count >= Self.most, !hasEnded { changed.wait() }
      tags.append(tag)
      changed.broadcast()
    }
  }

  /// Waits for replies and takes all of them. Nil after `end` when none is left.
  func take() -> [RequestTag]? {
    lock.withLock {
      while tags.isEmpty, !hasEnded { changed.wait() }
      if tags.isEmpty { return nil }
      defer {
        tags = []
        changed.broadcast()
      }
      return tags
    }
  }

  /// The flusher has failed for good: nothing is sent any more.
  func giveUp() { end(dropping: true) }

  /// No more will come. Those that are left are still taken, unless they are dropped.
  func end(dropping: Bool) {
    lock.withLock {
      hasEnded = true
      if dropping { tags = [] }
      changed.broadcast()
    }
  }
}
