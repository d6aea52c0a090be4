internal import BlockFile

/// The end of a batch: a point in time that can be read.
package struct BatchEnd: Equatable, Sendable {
  /// Its last sequence.
  package var sequence: UInt64
  /// When it was written, in nanoseconds since 1970.
  package var timeNanoseconds: UInt64

  /// Unchecked.
  package init(sequence: UInt64, timeNanoseconds: UInt64) {
    self.sequence = sequence
    self.timeNanoseconds = timeNanoseconds
  }
}

/// Every point in time that can be read: the horizon and the ends of the batches behind it.
package struct BatchEnds: Sendable {
  /// In order, the horizon first; at least one.
  package let ends: [BatchEnd]

  /// The horizon and what of `found` lies behind it. Of several with one sequence the first counts: the others are batches
  /// without records.
  package init(horizon: Horizon, found: [BatchEnd]) {
    var first = BatchEnd(sequence: horizon.sequence, timeNanoseconds: horizon.timeNanoseconds)
    let sorted = found.sorted { ($0.sequence, $0.timeNanoseconds) < ($1.sequence, $1.timeNanoseconds) }
    // When the horizon's own batch is there it says its time better.
    if let own = sorted.first(where: { $0.sequence == horizon.sequence }) { first = own }
    var ends = [first]
    for end in sorted where end.sequence > ends[ends.count - 1].sequence { ends.append(end) }
    self.ends = ends
  }

  /// Throws `.usage` unless `sequence` is one of them; the message names its neighbours.
  package func require(_ sequence: UInt64) throws(JournalError) {
    let next = ends.firstIndex { $0.sequence >= sequence }
    guard let next else {
      throw JournalError(
        .usage,
        "sequence \(sequence) is not written yet; the newest that can be read is \(ends[ends.count - 1].sequence)"
      )
    }
    guard ends[next].sequence != sequence else { return }
    guard next > 0 else {
      throw Self.tooOld(
        sequence, Horizon(sequence: ends[0].sequence, timeNanoseconds: ends[0].timeNanoseconds))
    }
    throw JournalError(
      .usage,
      "sequence \(sequence) does not end a batch; its neighbours that do are \(ends[next - 1].sequence) and \(ends[next].sequence)"
    )
  }

  /// The newest that was there at `time` (nanoseconds since 1970); throws `.usage` when all are newer.
  package func last(at time: UInt64) throws(JournalError) -> BatchEnd {
    guard let end = ends.last(where: { $0.timeNanoseconds <= time }) else {
      throw JournalError(
        .usage,
        "that time lies before the horizon; the oldest that can be read is sequence \(ends[0].sequence), of @\(ends[0].timeNanoseconds / 1_000_000_000)"
      )
    }
    return end
  }

  static func tooOld(_ sequence: UInt64, _ horizon: Horizon) -> JournalError {
    JournalError(
      .usage,
      "sequence \(sequence) lies before the horizon; the oldest that can be read is \(horizon.sequence) (serve with --history keeps more)"
    )
  }

  /// What the segments of fresh batches say, from the horizon to `last`.
  static func read(
    _ store: SegmentStore, from horizon: Horizon, through last: UInt64
  ) throws(JournalError) -> BatchEnds {
    var found: [BatchEnd] = []
    let numbers: [UInt64]
    do throws(FileError) { numbers = try store.list(.fresh) } catch { throw JournalError(error) }
    for number in numbers.reversed() {
      guard case .success(let segment) = try store.segmentOrFlaw(number),
        let inventory = try SegmentInventory.read(segment)
      else { continue }
      found += inventory.batchEnds.filter { $0.sequence <= last }
      if let first = inventory.batchEnds.first, first.sequence <= horizon.sequence { break }
    }
    return BatchEnds(horizon: horizon, found: found)
  }
}
