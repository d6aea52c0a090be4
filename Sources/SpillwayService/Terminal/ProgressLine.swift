internal import Bytes
internal import Threads

/// Progress of long work on a terminal: bytes, rate, time left. Elsewhere it is silent.
package struct ProgressLine {
  private let label: String
  private let isShown: Bool
  private let start: UInt64
  private var lastShown: UInt64?

  /// Between two lines at least so many nanoseconds pass: people read no faster.
  private static let interval: UInt64 = 200_000_000

  /// Progress of `label`, shown if stderr is a terminal.
  package init(_ label: String) {
    self.label = label
    isShown = StandardError.isTerminal
    start = MonotonicClock.nanoseconds()
  }

  /// `done` of `total` bytes are worked through.
  package mutating func update(done: UInt64, total: UInt64) {
    guard isShown else { return }
    let now = MonotonicClock.nanoseconds()
    if let lastShown, now - lastShown < Self.interval { return }
    lastShown = now
    StandardError.write(
      "\r\(Self.text(label, done: done, total: total, elapsedNanoseconds: now - start))\u{1B}[K")
  }

  /// The work is over: the line goes away, so that a message can stand there.
  package mutating func clear() {
    if lastShown != nil { StandardError.write("\r\u{1B}[K") }
    lastShown = nil
  }

  /// The line: `sda: 1.5 GiB of 10 GiB (15 %), 350 MiB/s, 0:25 left`.
  package static func text(
    _ label: String, done: UInt64, total: UInt64, elapsedNanoseconds: UInt64
  ) -> String {
    let percent = total == 0 ? 100 : Int(Double(min(done, total)) / Double(total) * 100)
    var line = "\(label): \(ByteCount.text(done)) of \(ByteCount.text(total)) (\(percent) %)"
    // A rate over less than half a second says nothing.
    guard done > 0, elapsedNanoseconds >= 500_000_000 else { return line }
    let rate = Double(done) / (Double(elapsedNanoseconds) / 1_000_000_000)
    line += ", \(ByteCount.text(UInt64(rate)))/s"
    if done < total { line += ", \(DurationText.clock(seconds: Double(total - done) / rate)) left" }
    return line
  }
}

/// Durations as people read them.
package enum DurationText {
  /// Minutes and seconds, with hours when there are any: `0:07`, `12:30`, `3:05:09`.
  package static func clock(seconds: Double) -> String {
    let whole = Int(min(max(seconds, 0), 360_000_000).rounded(.up))
    func two(_ number: Int) -> String { number < 10 ? "0\(number)" : "\(number)" }
    let minutes = whole / 60 % 60
    let hours = whole / 3600
    return hours == 0
      ? "\(minutes):\(two(whole % 60))" : "\(hours):\(two(minutes)):\(two(whole % 60))"
  }

  /// A length of time in its natural unit: `0 s`, `850 µs`, `12.5 ms`, `3.2 s`.
  package static func span(nanoseconds: UInt64) -> String {
    func tenths(_ value: Double) -> String {
      let tenths = UInt64((value * 10).rounded())
      return tenths % 10 == 0 ? "\(tenths / 10)" : "\(tenths / 10).\(tenths % 10)"
    }
    switch nanoseconds {
    case 0: return "0 s"
    case ..<1_000_000: return "\(tenths(Double(nanoseconds) / 1000)) µs"
    case ..<1_000_000_000: return "\(tenths(Double(nanoseconds) / 1_000_000)) ms"
    default: return "\(tenths(Double(nanoseconds) / 1_000_000_000)) s"
    }
  }
}
