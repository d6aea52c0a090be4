internal import Bytes
package import LMDB

// What the past still needs. A commit whose end lies behind the horizon leaves the references that it takes off frames in
// the `held` database, under the sequence of its end, and the frames stay counted as live. When the horizon has reached
// that sequence, no point in time that can be read shows them any more: the rows go, and the counts sink with them in one
// transaction.
//
// 1. Live is what rows of the map refer to and what rows of `held` say, together (`livenessFlaw` counts both).
// 2. What a commit supersedes that was written in the same commit never gets into the map, and the commit records are what
//    tells where batches end. So segments of which a part was committed behind the horizon are in `kept`, under the highest
//    such sequence, and upkeep does not touch them before the horizon has reached it.
// 3. A move does not hold what it moves: the copy has the same sequences, and a rebuild takes it instead.
// 4. A sweep holds what it removes until the end of the last commit: whatever laid the range row over it came before.

extension IndexTables {
  static let horizonKey = Array("horizon".utf8)
  private static let heldKeyByteCount = 20
  /// Most rows of `held` that one transaction removes.
  private static let releasedMax = 2048

  private static func heldKey(_ sequence: UInt64, _ address: FrameAddress) -> [UInt8] {
    var key: [UInt8] = []
    key.appendBigEndian(sequence)
    key.appendBigEndian(address.segment)
    key.appendBigEndian(address.granule)
    return key
  }

  private static func heldValue(_ address: FrameAddress, _ sectors: UInt32) -> [UInt8] {
    var value: [UInt8] = []
    value.appendBigEndian(address.kibibytes)
    value.appendBigEndian(sectors)
    return value
  }

  private static func parse(_ key: RawSpan, _ value: RawSpan) -> (
    sequence: UInt64, address: FrameAddress, sectors: UInt32
  )? {
    guard key.byteCount == heldKeyByteCount, value.byteCount == 6 else { return nil }
    let address = FrameAddress(
      segment: key.bigEndian(at: 8), granule: key.bigEndian(at: 16), kibibytes: value.bigEndian(at: 0))
    return (key.bigEndian(at: 0), address, value.bigEndian(at: 2))
  }

  private static var malformed: LMDBError { .corrupted("a row of what is held is malformed") }

  // MARK: - Writing

  /// Holds what `changes` superseded until the horizon has reached `sequence`.
  func hold(
    _ changes: LivenessChanges, until sequence: UInt64, _ transaction: borrowing LMDBWriteTransaction
  ) throws(LMDBError) {
    for (address, sectors) in changes.held {
      let key = Self.heldKey(sequence, address)
      let known = try transaction.get(held, key)?.bigEndian(at: 2, as: UInt32.self) ?? 0
      try transaction.put(held, key, Self.heldValue(address, known + UInt32(sectors)))
    }
  }

  /// Keeps the segments `numbers` as they are until the horizon has reached `sequence`.
  func keep(
    _ numbers: ClosedRange<UInt64>, until sequence: UInt64, _ transaction: borrowing LMDBWriteTransaction
  ) throws(LMDBError) {
    for number in numbers {
      var value: [UInt8] = []
      value.appendBigEndian(sequence)
      try transaction.put(kept, SegmentLiveness.key(number), value)
    }
  }

  /// Writes down that the horizon is there.
  func put(_ horizon: Horizon, _ transaction: borrowing LMDBWriteTransaction) throws(LMDBError) {
    try transaction.put(meta, Self.horizonKey, horizon.encoded)
  }

  /// Writes down that the horizon is there; durable when it returns.
  func setHorizon(_ horizon: Horizon) throws(LMDBError) {
    try transact { (transaction) throws(LMDBError) in try put(horizon, transaction) }
  }

  /// Moves the horizon and lets go of some of what it has passed. True when there was something: ask again. Durable when it
  /// returns.
  package func release(through horizon: Horizon) throws(LMDBError) -> Bool {
    let passed = try passedSegments(horizon.sequence)
    let isNews = try self.horizon() != horizon
    let isHeld = try holdsAny(through: horizon.sequence)
    guard isNews || isHeld || !passed.isEmpty else { return false }
    try transact { (transaction) throws(LMDBError) in
      try put(horizon, transaction)
      for number in passed { try transaction.delete(kept, SegmentLiveness.key(number)) }
      var budget = try budget(transaction)
      var liveness = LivenessChanges()
      for (key, address, sectors) in try oldestHeld(through: horizon.sequence, transaction) {
        var change = LivenessChange()
        change.letGo(address, sectors)
        guard
          budget.spend(map: 0, ranges: 0, frames: liveness.newRowCount(change), held: 1, others: 0)
        else { break }
        liveness.add(change)
        try transaction.delete(held, key)
      }
      try apply(liveness, transaction)
    }
    return true
  }

  private func oldestHeld(
    through sequence: UInt64, _ transaction: borrowing LMDBWriteTransaction
  ) throws(LMDBError) -> [(key: [UInt8], address: FrameAddress, sectors: UInt32)] {
    var found: [(key: [UInt8], address: FrameAddress, sectors: UInt32)] = []
    var isBroken = false
    try transaction.scan(held, from: [0]) { key, value in
      guard let row = Self.parse(key, value) else {
        isBroken = true
        return false
      }
      guard row.sequence <= sequence, found.count < Self.releasedMax else { return false }
      found.append((Self.heldKey(row.sequence, row.address), row.address, row.sectors))
      return true
    }
    if isBroken { throw Self.malformed }
    return found
  }

  private func holdsAny(through sequence: UInt64) throws(LMDBError) -> Bool {
    var isAny = false
    try withReader { reader throws(LMDBError) in
      try reader.scan(held, from: [0]) { key, _ in
        isAny = key.byteCount == Self.heldKeyByteCount && key.bigEndian(at: 0, as: UInt64.self) <= sequence
        return false
      }
    }
    return isAny
  }

  private func passedSegments(_ sequence: UInt64) throws(LMDBError) -> [UInt64] {
    try keptSegments().filter { $0.value <= sequence }.map(\.key)
  }

  // MARK: - Reading

  /// The oldest point in time that can be read, as of the last commit; nil in a fresh environment.
  package func horizon() throws(LMDBError) -> Horizon? {
    try withReader { reader throws(LMDBError) in try reader.get(meta, Self.horizonKey) }.flatMap {
      Horizon($0)
    }
  }

  /// The segments that must stay as they are, and which sequence the horizon has to reach before they need no more.
  package func keptSegments() throws(LMDBError) -> [UInt64: UInt64] {
    var found: [UInt64: UInt64] = [:]
    try withReader { reader throws(LMDBError) in
      try reader.scan(kept, from: SegmentLiveness.key(0)) { key, value in
        guard key.byteCount == 8, value.byteCount == 8 else { return true }
        found[key.bigEndian(at: 0)] = value.bigEndian(at: 0)
        return true
      }
    }
    return found
  }

  /// Whether anything is held for the past.
  func holdsPast() throws(LMDBError) -> Bool { try holdsAny(through: .max) }

  /// Stored bytes of the frames that are held, of one that rows refer to as well its part.
  private func heldByteCount() throws(LMDBError) -> UInt64 {
    var sum: UInt64 = 0
    for (segment, frames) in Dictionary(grouping: try heldFrames(), by: { $0.key.segment }) {
      var sectors: [UInt32: UInt64] = [:]
      for frame in try liveFrames(of: segment) { sectors[frame.address.granule] = UInt64(frame.sectors) }
      for (address, held) in frames {
        let all = max(sectors[address.granule] ?? held, held, 1)
        sum += UInt64(address.kibibytes) * 1024 * held / all
      }
    }
    return sum
  }

  /// Bytes of segments that only the past needs: what is held, and of segments that stay as they are what is not live.
  /// `byteCount` says what a segment takes on disk.
  func pastByteCount(
    through end: AppliedPosition, _ byteCount: (UInt64) throws(JournalError) -> UInt64
  ) throws(JournalError) -> UInt64 {
    var sum: UInt64
    let kept: [UInt64: UInt64]
    let live: [UInt64: SegmentLiveness]
    do throws(LMDBError) {
      sum = try heldByteCount()
      (kept, live) = try (keptSegments(), liveSegments())
    } catch {
      throw JournalError(error)
    }
    for number in kept.keys {
      var taken = try byteCount(number)
      // What lies behind the applied position nobody has counted yet.
      if number == end.segment { taken = min(taken, end.offset) }
      taken -= min(taken, UInt64(SegmentSuperblock.byteCount))
      sum += taken - min(taken, UInt64(live[number]?.kibibytes ?? 0) * 1024)
    }
    return sum
  }

  /// How many sectors are held of each frame, as of the last commit.
  package func heldFrames() throws(LMDBError) -> [FrameAddress: UInt64] {
    try withReader { reader throws(LMDBError) in try heldFrames(reader) }
  }

  func heldFrames(_ reader: LMDBReadTransaction) throws(LMDBError) -> [FrameAddress: UInt64] {
    var found: [FrameAddress: UInt64] = [:]
    var isBroken = false
    try reader.scan(held, from: [0]) { key, value in
      guard let row = Self.parse(key, value) else {
        isBroken = true
        return false
      }
      found[row.address, default: 0] += UInt64(row.sectors)
      return true
    }
    if isBroken { throw Self.malformed }
    return found
  }
}

extension RegionRow {
  /// Sectors of frames that `old` refers to and `new` does not, by frame; both sorted and without overlaps.
  package static func superseded(_ old: [IndexEntry], by new: [IndexEntry]) -> [FrameAddress: Int64] {
    var lost: [FrameAddress: Int64] = [:]
    var index = 0
    for entry in old {
      guard case .frame(let address, _) = entry.placement else { continue }
      while index < new.count, new[index].end <= entry.start { index += 1 }
      var stays: UInt16 = 0
      var at = index
      while at < new.count, new[at].start < entry.end {
        if let mine = clip(entry, new[at].start, new[at].end),
          let other = clip(new[at], entry.start, entry.end),
          mine.placement == other.placement
        {
          stays += mine.count
        }
        at += 1
      }
      if stays < entry.count { lost[address, default: 0] += Int64(entry.count - stays) }
    }
    return lost
  }
}
