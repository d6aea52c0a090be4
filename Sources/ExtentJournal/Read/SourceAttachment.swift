internal import Bytes
internal import Threads

/// A source, as the layer knows it whose absent sectors it has; and what the reads of it share.
final class SourceAttachment: @unchecked Sendable {
  // Sendable: constants; `version` is guarded by the ledger's lock, all else by `lock`.
  let source: any LiveSource
  /// Counts changes of the source's state: a read parks only if there was none since it asked.
  var version: UInt64 = 0

  private let lock = Lock()
  private let changed: Condition
  private var fetching = 0
  private var end: JournalError?
  private var streams: [UInt64: Stream] = [:]

  /// Most reads of the source at a time, and so windows in memory.
  static let fetchingMax = 16
  /// Most bytes of a window that was not asked for at once.
  static let windowBytesMax: UInt64 = 1 << 20

  /// How far one reader was fetched for, to find out that it reads in order.
  private struct Stream {
    var next: UInt64
    var windowByteCount: UInt64
  }

  init(_ source: any LiveSource) {
    self.source = source
    changed = Condition(lock)
  }

  /// What the source's job is, as far as is known, unless the attachment has ended.
  func state() throws(JournalError) -> SourceState {
    if let end = lock.withLock({ end }) { throw end }
    return source.state
  }

  /// `state` in one word, for a status. An attachment that has ended is dead.
  var word: String {
    do throws(JournalError) {
      return switch try state() {
      case .awaited: "awaited"
      case .alive: "alive"
      case .dead: "dead"
      case .unknown: "unknown"
      }
    } catch {
      return "dead"
    }
  }

  /// As `state`, but asked of the job from here on. Blocks.
  func confirm() throws(JournalError) -> SourceState {
    let answer = source.confirm()
    if let end = lock.withLock({ end }) { throw end }
    return answer
  }

  /// Waits until there is room for one read more of the source; `leave` must follow.
  func enter() throws(JournalError) {
    try lock.withLock { () throws(JournalError) in
      while fetching >= Self.fetchingMax, end == nil { changed.wait() }
      if let end { throw end }
      fetching += 1
    }
  }

  /// A read of the source is over.
  func leave() {
    lock.withLock {
      fetching -= 1
      changed.signal()
    }
  }

  /// Reads fail with `error` from now on. Those that are in the source's hands are its own to end.
  func end(_ error: JournalError) {
    lock.withLock {
      end = end ?? error
      changed.broadcast()
    }
  }

  /// What to read so that `owner` gets `missing`, on a disk of `byteCount` bytes: whole blocks, and twice as much as the
  /// last time when it goes on where that ended.
  func window(for missing: ByteRange, of byteCount: UInt64, owner: UInt64) -> ByteRange {
    let unit = SourceBlock.byteCount
    let start = missing.start / unit * unit
    var end = (missing.end + unit - 1) / unit * unit
    lock.withLock {
      var window = unit
      if let last = streams[owner], last.next == start {
        window = min(last.windowByteCount * 2, Self.windowBytesMax)
        end = max(end, start + window)
      }
      streams[owner] = Stream(next: end, windowByteCount: max(window, end - start))
    }
    return ByteRange(start: start, end: min(end, byteCount))
  }

  /// `owner` reads no more.
  func forget(owner: UInt64) { lock.withLock { streams[owner] = nil } }
}
