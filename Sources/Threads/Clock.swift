internal import Glibc

/// Time that only goes forward, for deadlines and durations.
package enum MonotonicClock {
  /// Nanoseconds since some point in the past (CLOCK_MONOTONIC).
  package static func nanoseconds() -> UInt64 { Threads.nanoseconds(CLOCK_MONOTONIC) }
}

/// The time of day, for what people read.
package enum WallClock {
  /// Nanoseconds since 1970-01-01 UTC (CLOCK_REALTIME).
  package static func nanoseconds() -> UInt64 { Threads.nanoseconds(CLOCK_REALTIME) }
}

private func nanoseconds(_ clock: clockid_t) -> UInt64 {
  var now = timespec()
  unsafe clock_gettime(clock, &now)
  return UInt64(now.tv_sec) * 1_000_000_000 + UInt64(now.tv_nsec)
}
