internal import Bytes

/// The oldest point in time that can still be read exactly: the end of a batch.
package struct Horizon: Equatable, Sendable {
  /// The last sequence of that batch; 0 before the first.
  package var sequence: UInt64
  /// When it was passed, in nanoseconds since 1970: not before the batch was written.
  package var timeNanoseconds: UInt64

  /// Unchecked: `sequence` ends a batch.
  package init(sequence: UInt64, timeNanoseconds: UInt64) {
    self.sequence = sequence
    self.timeNanoseconds = timeNanoseconds
  }

  /// The value in the `meta` database.
  var encoded: [UInt8] {
    var value: [UInt8] = []
    value.appendBigEndian(sequence)
    value.appendBigEndian(timeNanoseconds)
    return value
  }

  init?(_ value: [UInt8]) {
    guard value.count == 16, let sequence = value.bigEndian(at: 0, as: UInt64.self),
      let time = value.bigEndian(at: 8, as: UInt64.self)
    else { return nil }
    self.init(sequence: sequence, timeNanoseconds: time)
  }
}

/// How much of what is superseded is kept, so that the past can be read.
package enum HistoryLimit: Sendable, Equatable {
  /// Nothing: the horizon follows the index.
  case none
  /// What the journal keeps already, and all that comes: the horizon stays where it is. For who opens a journal only to
  /// look at it or to tidy it up.
  case all
  /// What was written before the last so many bytes of segments may go.
  case bytes(UInt64)
  /// What was superseded longer ago than so many nanoseconds may go.
  case nanoseconds(UInt64)
}

/// Where the horizon may go to: the ends of index commits, oldest first. Pure; for one thread at a time.
package struct HorizonMarks {
  /// The end of one commit.
  package struct Mark: Equatable, Sendable {
    /// The last sequence of its last batch.
    package var sequence: UInt64
    /// The segment in which the segments ended there.
    package var segment: UInt64
    /// The offset in that segment, in bytes.
    package var offset: UInt64
    /// When it was noted, in nanoseconds since 1970: not before its last batch was written.
    package var timeNanoseconds: UInt64

    /// Unchecked.
    package init(sequence: UInt64, segment: UInt64, offset: UInt64, timeNanoseconds: UInt64) {
      self.sequence = sequence
      self.segment = segment
      self.offset = offset
      self.timeNanoseconds = timeNanoseconds
    }
  }

  /// In the order of their sequences.
  package private(set) var marks: [Mark] = []
  /// Marks that are kept: when there are more, every second one goes, and the horizon moves in larger steps.
  package static let countMax = 4096

  /// None yet.
  package init() {}

  /// Adds a mark behind all others; one that is not behind them is known already.
  package mutating func add(_ mark: Mark) {
    if let last = marks.last, last.sequence >= mark.sequence { return }
    marks.append(mark)
    guard marks.count > Self.countMax else { return }
    marks = marks.enumerated().filter { $0.offset % 2 == 0 || $0.offset == marks.count - 1 }.map(\.element)
  }

  /// Adds marks before all others: what the segments tell of the time before the journal was opened.
  package mutating func prepend(_ earlier: [Mark]) {
    let first = marks.first?.sequence ?? .max
    marks = earlier.filter { $0.sequence < first } + marks
  }

  /// Forgets what lies at or before `sequence`: the horizon is there.
  package mutating func forget(through sequence: UInt64) {
    marks.removeAll { $0.sequence <= sequence }
  }

  /// The newest mark that `limit` lets the horizon move to; nil when there is none. `sizes` are the bytes that the segments of
  /// fresh batches take, by number.
  package func target(_ limit: HistoryLimit, now: UInt64, sizes: [UInt64: UInt64]) -> Mark? {
    switch limit {
    case .none: return marks.last
    case .all: return nil
    case .nanoseconds(let age): return marks.last { $0.timeNanoseconds <= now - min(now, age) }
    case .bytes(let wanted):
      let later = sizes.sorted { $0.key > $1.key }
      var next = 0
      var sum: UInt64 = 0
      for mark in marks.reversed() {
        while next < later.count, later[next].key > mark.segment {
          sum += later[next].value
          next += 1
        }
        let rest = sizes[mark.segment].map { $0 - min($0, mark.offset) } ?? 0
        if sum + rest >= wanted { return mark }
      }
      return nil
    }
  }
}
