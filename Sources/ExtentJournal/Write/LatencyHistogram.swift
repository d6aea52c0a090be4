internal import Synchronization

/// How long many things took, within 1/16 of each: counts in buckets that widen with the value. Any thread may note and ask.
///
/// Values share their highest four bits below the first, as in HdrHistogram (http://hdrhistogram.org).
final class LatencyHistogram: Sendable {
  private let counts: [Bucket] = (0..<LatencyHistogram.bucketCount).map { _ in Bucket() }
  private let longest = Atomic<UInt64>(0)

  private final class Bucket: Sendable { let count = Atomic<UInt64>(0) }

  private static let subdivisions = 16
  private static let bucketCount = 61 * subdivisions

  /// Notes one that took `nanoseconds`.
  func note(_ nanoseconds: UInt64) {
    counts[Self.bucket(nanoseconds)].count.add()
    longest.max(nanoseconds, ordering: .relaxed)
  }

  /// The bucket of `value`: 16 to a power of two.
  static func bucket(_ value: UInt64) -> Int {
    guard value >= 16 else { return Int(value) }
    let exponent = 63 - value.leadingZeroBitCount
    return (exponent - 3) * subdivisions + Int(value >> UInt64(exponent - 4)) - subdivisions
  }

  /// The highest value that falls into `bucket`.
  static func highest(in bucket: Int) -> UInt64 {
    guard bucket >= subdivisions else { return UInt64(bucket) }
    let shift = UInt64(bucket / subdivisions - 1)
    return (UInt64(bucket % subdivisions + subdivisions + 1) << shift) &- 1
  }

  /// What was noted so far.
  var summary: LatencySummary {
    let counts = counts.map { $0.count.count }
    let total = counts.reduce(0, +)
    let longest = longest.count
    func quantile(_ parts: UInt64) -> UInt64 {
      let rank = (total * parts + 99) / 100
      var seen: UInt64 = 0
      for (bucket, count) in counts.enumerated() where count > 0 {
        seen += count
        if seen >= rank { return min(Self.highest(in: bucket), longest) }
      }
      return longest
    }
    return LatencySummary(
      count: total, medianNanoseconds: total == 0 ? 0 : quantile(50),
      p99Nanoseconds: total == 0 ? 0 : quantile(99), maxNanoseconds: longest)
  }
}

/// A latency histogram in four numbers; quantiles within 1/16.
package struct LatencySummary: Codable, Sendable, Equatable {
  /// How many were noted.
  package var count: UInt64 = 0
  /// Half of them took at most this.
  package var medianNanoseconds: UInt64 = 0
  /// 99 of 100 took at most this.
  package var p99Nanoseconds: UInt64 = 0
  /// The longest, exactly.
  package var maxNanoseconds: UInt64 = 0
}
