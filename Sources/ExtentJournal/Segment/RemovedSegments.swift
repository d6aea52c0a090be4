internal import Bytes

// Which batches are gone because upkeep removed their segments. Without this a rebuild could not tell a segment that
// nobody needed from one that was lost: the chain of batches has a gap in both cases.
//
// The list is written as a whole, to a moved segment, and is durable before a segment on it is unlinked. Neighbouring
// segments are one run, so it has no more runs than there are gaps between the segments that are left.

/// Batches of one or more removed segments that followed one another.
struct RemovedRun: Equatable, Sendable {
  var firstBatch: UInt64
  /// Behind the last batch of the run: how the chain goes on.
  var lastBatch: UInt64
  var lastSequence: UInt64
  var chain: UInt64

  static let byteCount = 32
}

/// Every run of a journal.
struct RemovedSegments: Equatable, Sendable {
  /// In order, apart.
  private(set) var runs: [RemovedRun] = []

  /// Adds a run; those that overlap it or touch it become one with it.
  mutating func add(_ run: RemovedRun) {
    var joined = run
    runs.removeAll { other in
      guard other.firstBatch <= joined.lastBatch + 1, joined.firstBatch <= other.lastBatch + 1 else {
        return false
      }
      let first = min(other.firstBatch, joined.firstBatch)
      if other.lastBatch > joined.lastBatch { joined = other }
      joined.firstBatch = first
      return true
    }
    runs.insert(joined, at: runs.firstIndex { $0.firstBatch > joined.firstBatch } ?? runs.count)
  }

  /// The run that holds the batch behind `batch`.
  func run(behind batch: UInt64) -> RemovedRun? {
    runs.first { $0.firstBatch <= batch + 1 && $0.lastBatch > batch }
  }

  /// Records that hold all of it.
  var records: [Record] {
    let most = 65535 / RemovedRun.byteCount
    return stride(from: 0, to: runs.count, by: most).map { start in
      let part = runs[start..<min(start + most, runs.count)]
      var body: [UInt8] = []
      for run in part {
        for word in [run.firstBatch, run.lastBatch, run.lastSequence, run.chain] {
          body.appendBigEndian(word)
        }
      }
      return Record(
        kind: .removed, layer: .journal, sequence: part.map(\.lastSequence).max() ?? 0,
        range: SectorRange(start: 0, end: 0), body: body)
    }
  }

  /// Adds what `record` says.
  mutating func add(_ record: Record) {
    for at in stride(from: 0, to: record.body.count - RemovedRun.byteCount + 1, by: RemovedRun.byteCount) {
      func word(_ index: Int) -> UInt64 { record.body.bigEndian(at: at + index * 8) ?? 0 }
      guard word(0) > 0, word(0) <= word(1) else { continue }
      add(RemovedRun(firstBatch: word(0), lastBatch: word(1), lastSequence: word(2), chain: word(3)))
    }
  }
}
