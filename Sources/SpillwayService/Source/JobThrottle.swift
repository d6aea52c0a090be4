package import ExtentJournal

/// When a job that copies in the background has to yield to reads of its source, and how much. A value without I/O.
///
/// All times are nanoseconds of MonotonicClock.
package struct JobThrottle: Sendable {
  /// The speed that the job is to get back; nil while it has its own.
  package var lowered: JobSpeed?
  private var readCount = 0
  private var lastEnd: UInt64?
  /// The job's progress at two instants, the later one last.
  private var samples: [(at: UInt64, progress: Int64)] = []

  /// How long after the last read the job has its speed again.
  package static let lingerNanoseconds: UInt64 = 500_000_000
  /// A job is never slower, in bytes a second: 0 would mean without limit.
  package static let speedMin: UInt64 = 1 << 20
  /// How much slower it is made.
  private static let divisor: UInt64 = 8
  private static let sampleNanoseconds: UInt64 = 100_000_000

  /// A job that an earlier daemon may have slowed.
  package init(lowered: JobSpeed?) { self.lowered = lowered }

  /// A read of the source begins.
  package mutating func beginRead() { readCount += 1 }

  /// A read of the source has ended.
  package mutating func endRead(at now: UInt64) {
    readCount -= 1
    lastEnd = now
  }

  /// The job had done `progress` bytes. A job that does nothing (sync=none) makes none, and is left alone.
  package mutating func note(progress: Int64, at now: UInt64) {
    if let last = samples.last, now - min(now, last.at) < Self.sampleNanoseconds { return }
    samples.append((now, progress))
    if samples.count > 2 { samples.removeFirst() }
  }

  /// Whether reads want the job to yield.
  package func isWanted(at now: UInt64) -> Bool {
    readCount > 0 || lastEnd.map { now < $0 + Self.lingerNanoseconds } ?? false
  }

  /// When the job is to have its speed again if no further read comes; nil when that is not to be said yet.
  package var restoreTime: UInt64? {
    guard lowered != nil, readCount == 0 else { return nil }
    return (lastEnd ?? 0) + Self.lingerNanoseconds
  }

  /// Bytes a second that the job did lately; 0 when it is not known.
  package var bytesPerSecond: UInt64 {
    guard samples.count == 2, samples[1].progress > samples[0].progress else { return 0 }
    let bytes = Double(samples[1].progress - samples[0].progress)
    return UInt64(bytes * 1_000_000_000 / Double(samples[1].at - samples[0].at))
  }

  /// Whether there is something to slow.
  package var isWorthwhile: Bool { bytesPerSecond > Self.speedMin }

  /// The speed to set instead of `current` (0: none); nil to leave it.
  package func lowerSpeed(than current: UInt64) -> UInt64? {
    guard isWorthwhile else { return nil }
    let speed = max(Self.speedMin, bytesPerSecond / Self.divisor)
    return current == 0 || speed < current ? speed : nil
  }
}
