internal import Threads

/// Says now and then how far a long recovery has come: an index that is built again is hours of writing read back.
struct RecoveryProgress {
  private let segmentCount: Int
  private let log: JournalLog
  private let started = MonotonicClock.nanoseconds()
  private var lastSaid: UInt64
  private var hasSpoken = false

  private static let intervalNanoseconds: UInt64 = 5_000_000_000

  /// Of a recovery that has `segments` segments to read.
  init(segments: Int, log: @escaping JournalLog) {
    segmentCount = segments
    self.log = log
    lastSaid = started
    // Few are read before anybody asks.
    guard segments > 64 else { return }
    hasSpoken = true
    log(.info, "reading \(segments) segments that the index does not know")
  }

  /// It is in the `segment`-th of them.
  mutating func note(segment: UInt64) {
    let now = MonotonicClock.nanoseconds()
    guard now - lastSaid >= Self.intervalNanoseconds, segmentCount > 0 else { return }
    lastSaid = now
    hasSpoken = true
    log(.info, "reading segments: \(min(segment * 100 / UInt64(segmentCount), 100)) %")
  }

  func end() {
    guard hasSpoken else { return }
    let seconds = (MonotonicClock.nanoseconds() - started) / 1_000_000_000
    log(.info, "read \(segmentCount) segments in \(seconds) s")
  }
}
