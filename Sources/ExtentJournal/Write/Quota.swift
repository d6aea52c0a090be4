package import BlockFile

// What a journal may take on disk. It is kept by what is admitted (Admission): of the quota, what the segments and the index
// take is gone, and the reserve is kept free for what is not admitted one by one: records without payload, what upkeep
// copies before it frees, and a second index while a new one is built. So with the quota everything that may grow on its
// own becomes smaller: segments, of which upkeep needs room for two, and the transactions of the index.

/// A bound on the bytes on disk of a journal. Pure.
package struct Quota: Sendable, Equatable {
  /// The bound, in bytes.
  package let byteCount: UInt64

  /// The smallest that leaves room for anything, in bytes.
  package static let byteCountMin: UInt64 = 64 << 20

  /// Nil when `byteCount` is too small.
  package init?(byteCount: UInt64) {
    guard byteCount >= Self.byteCountMin else { return nil }
    self.byteCount = byteCount
  }

  /// Most bytes of a segment: a sixteenth, and 64 MiB at most.
  package var segmentBytesMax: UInt64 { min(64 << 20, byteCount / 16 / 4096 * 4096) }

  /// Most pages that a transaction of the index may dirty: a thirty-second, and 16 MiB at most.
  package var indexPagesMax: Int { Int(min(4096, byteCount / 32 / 4096)) }

  /// What is kept free of it while the index takes `indexBytes`.
  package func reserve(indexBytes: UInt64) -> UInt64 { 2 * segmentBytesMax + indexBytes }

  /// What a journal that takes `ownedBytes` on `filesystem` sees of it.
  package func space(ownedBytes: UInt64, of filesystem: FileSpace) -> FileSpace {
    FileSpace(
      freeByteCount: min(filesystem.freeByteCount, byteCount - min(byteCount, ownedBytes)),
      totalByteCount: min(filesystem.totalByteCount, byteCount))
  }
}

/// How soon the space is used up, if all goes on as it did. Pure.
package struct SpaceForecast: Sendable {
  private var samples: [(nanoseconds: UInt64, ownedBytes: UInt64)] = []

  /// As far back as it looks, and how close its samples are, in nanoseconds.
  private static let spanNanoseconds: UInt64 = 60_000_000_000
  private static let stepNanoseconds: UInt64 = 1_000_000_000

  /// Of nothing: it knows no pace yet.
  package init() {}

  /// Notes that the journal takes `ownedBytes` at `nanoseconds` (of MonotonicClock).
  package mutating func note(_ ownedBytes: UInt64, at nanoseconds: UInt64) {
    if let last = samples.last, nanoseconds < last.nanoseconds + Self.stepNanoseconds { return }
    samples.append((nanoseconds, ownedBytes))
    while samples.count > 2, samples[1].nanoseconds + Self.spanNanoseconds < nanoseconds {
      samples.removeFirst()
    }
  }

  /// The seconds from `nanoseconds` on until `freeBytes` are used up, at the pace of the last minute. Nil when it does
  /// not grow.
  package func seconds(freeBytes: UInt64, ownedBytes: UInt64, at nanoseconds: UInt64) -> UInt64? {
    guard let first = samples.first, nanoseconds > first.nanoseconds, ownedBytes > first.ownedBytes else {
      return nil
    }
    let pace = Double(ownedBytes - first.ownedBytes) / Double(nanoseconds - first.nanoseconds) * 1e9
    let seconds = Double(freeBytes) / pace
    return seconds < 1e15 ? UInt64(seconds) : nil
  }
}
