internal import BlockFile
internal import Bytes

// Batches out of segments, in order, as recovery reads them.
//
// A batch is believed when every checksum of its group is right, its number is the next one and its chain fits. The
// first place where that fails is one of three things:
//
//   the end of a segment    what is there is a directory that was torn; the next segment's first batch fits the chain
//   damage                  the batch was durable, or a kill alone cannot have done this: what can be had of it is
//                           taken (SegmentSalvage), the rest is reported, and the scan goes on
//   a torn tail             a crash tore the batch off, and with it goes everything behind: segments that follow hold
//                           later batches, written before either was durable
//
// A batch was durable when its number is not above the boundary: the highest `durableThrough` that the segments
// say, or the batch up to which the index was committed. Below the boundary a sealed segment's directory is as good as
// its groups; above it every stored byte is checked. A process that is killed leaves whole groups and beginnings of
// groups; so within one boot of the machine a batch with a commit record behind it is damaged, not torn.
struct SegmentScanner {
  let store: SegmentStore
  /// A batch up to which everything is durable, whatever the segments say.
  var knownDurable: UInt64 = 0
  /// A sequence up to which everything was written, as the ring of the same boot knows.
  var writtenThrough: UInt64 = 0
  /// Of what was written after this sequence, the end of a batch, nothing is delivered.
  var cut: UInt64 = .max
  /// Which frames of a segment of moved data somebody needs; nil: all may be. A copy that nobody needs may be gone, and then
  /// what it was copied from counts.
  var neededFrames: ((UInt64) throws(JournalError) -> Set<UInt64>)?
  /// Whether the machine has been running since the segments were written.
  let isSameBoot: Bool
  var hooks = TestHooks()
  /// Called for everything that was durable and is not whole, in the order of the segments.
  let report: (SegmentDamage) -> Void

  /// Why a scan ended.
  enum End {
    /// Behind the last group of the last segment.
    case clean
    /// At a group that is not whole, or (offset 0) at a segment without superblock. `lastSequence` is the highest that
    /// what lies behind has used.
    case torn(segment: UInt64, offset: UInt64, lastSequence: UInt64)
  }

  /// How far a scan has come.
  struct Walk {
    var position: AppliedPosition
    /// False behind damage that swallowed a commit record: the next batch is then taken as it comes.
    var chainIsKnown = true
    /// Batches up to here were durable.
    var durableThrough: UInt64
    /// Batches that upkeep removed with their segments.
    var removed = RemovedSegments()

    /// Whether `commit` ends the next batch, as far as its number, its sequences and (with `chain`) its chain say.
    func isContinued(by commit: CommitRecord, chain: UInt64) -> Bool {
      guard chainIsKnown else {
        return commit.batch > position.batch && commit.firstSequence > position.sequence
      }
      return commit.batch == position.batch + 1 && commit.firstSequence > position.sequence
        && commit.chain == chain
    }

    /// Goes behind the batches of removed segments, if those are what comes next.
    mutating func skipRemoved() {
      guard chainIsKnown, let run = removed.run(behind: position.batch) else { return }
      position.batch = run.lastBatch
      position.sequence = run.lastSequence
      position.chain = run.chain
    }

    mutating func advance(to batch: PublishedBatch) {
      position = batch.end
      chainIsKnown = true
    }
  }

  /// Calls `deliver` for each batch after `start`, in order, and returns how it ended and the last position.
  func scan(
    after start: AppliedPosition, segments: [UInt64],
    _ deliver: (PublishedBatch) throws(JournalError) -> Void
  ) throws(JournalError) -> (end: End, position: AppliedPosition) {
    let numbers = segments.filter { $0 >= max(start.segment, 1) }
    // What upkeep has moved counts under the sequences that it came with: each batch takes along what belongs before it.
    var moved = try MovedItems.read(store, behind: start.sequence, through: cut, neededFrames: neededFrames)
    var walk = Walk(
      position: start,
      durableThrough: max(try durableThrough(numbers, applied: start.batch), moved.durableThrough),
      removed: moved.removed)
    func body(_ batch: PublishedBatch) throws(JournalError) {
      guard batch.end.sequence > cut else { return try deliver(moved.taken(into: batch)) }
      var end = batch.end
      end.sequence = cut
      try deliver(moved.taken(into: PublishedBatch(end: end, firstSequence: .max, extents: [], records: [])))
    }
    // Who has an index does not need what was moved before; who has none misses what nobody can name.
    if start.batch == 0 {
      for number in moved.damaged {
        report(
          SegmentDamage(segment: number, offset: nil, extents: nil, sequences: 1...max(writtenThrough, 1)))
      }
    }
    // The segment that the index ends in is gone: with it whatever followed there, unless the next one goes on.
    if start.segment > 0, numbers.first != start.segment, try !isContinued(numbers[...], walk) {
      lose(.whole(start.segment), &walk)
    }
    for (index, number) in numbers.enumerated() {
      walk.skipRemoved()
      let later = numbers[(index + 1)...]
      let segment: OpenSegment
      switch try store.segmentOrFlaw(number) {
      case .success(let found):
        segment = found
      case .failure(let flaw):
        // A crash while it was made, unless the index knows it or what it should hold was durable.
        let isNew =
          number > start.segment && walk.position.batch >= walk.durableThrough
          && walk.position.sequence >= writtenThrough
        guard flaw.kind != .torn || !isNew else {
          return (try torn(number, 0, later), walk.position)
        }
        lose(.whole(number), &walk)
        continue
      }
      if try replayDirectory(segment, &walk, body) { continue }
      if try isRemoved(segment, walk) { continue }
      if let end = try walkGroups(segment, from: start, later, &walk, body) {
        return (end, walk.position)
      }
    }
    if walk.position.sequence < writtenThrough, let last = numbers.last {
      report(
        SegmentDamage(
          segment: last, offset: nil, extents: nil,
          sequences: walk.position.sequence + 1...writtenThrough))
    }
    if moved.hasMore { try body(PublishedBatch(end: walk.position, extents: [], records: [])) }
    return (.clean, walk.position)
  }

  /// Walks the groups of `segment`. Returns an end only if the scan ends here.
  private func walkGroups(
    _ segment: OpenSegment, from start: AppliedPosition, _ later: ArraySlice<UInt64>, _ walk: inout Walk,
    _ body: (PublishedBatch) throws(JournalError) -> Void
  ) throws(JournalError) -> End? {
    var offset = segment.number == start.segment ? start.offset : UInt64(SegmentSuperblock.byteCount)
    let footer = try segment.footer()
    let size = try segment.byteCount()
    let limit = footer?.directoryOffset ?? size
    while offset < limit {
      if let group = try group(segment, at: offset, limit: limit, after: walk) {
        try body(group)
        walk.advance(to: group)
      } else {
        let isEnd = try isContinued(later, walk)
        if footer == nil, isEnd { return nil }
        let isWhole = try isWhole(segment, offset, later, walk)
        guard
          isWhole || walk.position.batch < walk.durableThrough || walk.position.sequence < writtenThrough
        else {
          return try torn(segment.number, offset, later)
        }
        try body(salvage(segment, at: offset, limit: limit, footer, &walk))
      }
      offset = walk.position.offset
    }
    return nil
  }

  /// Takes the batches of a sealed segment from its directory, if all of them were durable. False when it has none that
  /// can be used, or what it says does not follow what was before.
  private func replayDirectory(
    _ segment: OpenSegment, _ walk: inout Walk, _ body: (PublishedBatch) throws(JournalError) -> Void
  ) throws(JournalError) -> Bool {
    guard let footer = try segment.footer(), footer.lastBatch <= walk.durableThrough,
      let directory = try segment.directory(footer)
    else { return false }
    var ahead = walk
    var batches: [PublishedBatch] = []
    var contents = GroupContents(segment: segment.number, previousChain: ahead.position.chain)
    var isWhole = true
    let bytes = directory
    SegmentDirectory.forEach(bytes.bytes.extracting(0..<Int(footer.directoryByteCount))) { header, offset in
      guard let (item, checksum) = SegmentItem.parse(header, seed: segment.salt &+ offset) else {
        isWhole = false
        return false
      }
      contents.add(item, checksum: checksum, at: offset)
      guard case .commit(let commit) = item else { return true }
      if commit.batch > ahead.position.batch {
        guard ahead.isContinued(by: commit, chain: contents.chainValue) else {
          isWhole = false
          return false
        }
        let batch = contents.batch(endedBy: commit, at: offset)
        batches.append(batch)
        ahead.advance(to: batch)
      }
      contents = GroupContents(segment: segment.number, previousChain: ahead.position.chain)
      return true
    }
    guard isWhole, ahead.position.batch >= footer.lastBatch else { return false }
    for batch in batches { try body(batch) }
    walk = ahead
    return true
  }

  /// Whether upkeep had removed the segment, and a power loss has brought its name back.
  private func isRemoved(_ segment: OpenSegment, _ walk: Walk) throws(JournalError) -> Bool {
    guard let run = walk.removed.runs.last, run.firstBatch <= walk.position.batch else { return false }
    var last: UInt64 = 0
    try forEachCommit(segment, from: UInt64(SegmentSuperblock.byteCount)) { last = max(last, $0.batch) }
    return walk.removed.runs.contains { $0.firstBatch <= last && last <= $0.lastBatch }
  }

  private func readable(_ number: UInt64) throws(JournalError) -> OpenSegment? {
    guard case .success(let segment) = try store.segmentOrFlaw(number) else { return nil }
    return segment
  }

  // MARK: - Where durable ends

  /// The last batch that is known to have been durable: segments say it, the later the higher.
  private func durableThrough(_ numbers: [UInt64], applied: UInt64) throws(JournalError) -> UInt64 {
    if knownDurable > 0 { return max(knownDurable, applied) }
    for number in numbers.reversed() {
      guard let segment = try readable(number) else {
        if let claim = try claimedDurable(number) { return max(claim, applied) }
        continue
      }
      var found: UInt64?
      if let footer = try segment.footer() {
        found = footer.durableThrough
      } else {
        try forEachCommit(segment, from: UInt64(SegmentSuperblock.byteCount)) { commit in
          found = max(found ?? 0, commit.durableThrough)
        }
      }
      if let found { return max(found, applied) }
    }
    return applied
  }

  /// The highest batch that a segment without superblock calls durable. Nothing in it can be verified; but a crash that
  /// kept the superblock from the disk cannot have left a record that calls anything in or behind this segment durable.
  private func claimedDurable(_ number: UInt64) throws(JournalError) -> UInt64? {
    let buffer = try store.bytes(of: number)
    let bytes = buffer.bytes
    var highest: UInt64?
    for at in stride(from: SegmentSuperblock.byteCount, to: bytes.byteCount, by: 16) {
      guard let claim = CommitRecord.claim(bytes.extracting(at..<bytes.byteCount)),
        claim.durableThrough < claim.batch
      else { continue }
      highest = max(highest ?? 0, claim.durableThrough)
    }
    return highest
  }

  /// Whether the batch at `offset` of `segment` was written whole, as far as a killed process can tell.
  private func isWhole(
    _ segment: OpenSegment, _ offset: UInt64, _ later: ArraySlice<UInt64>, _ walk: Walk
  ) throws(JournalError) -> Bool {
    guard isSameBoot else { return false }
    var isFollowed = false
    try forEachCommit(segment, from: offset) { commit in
      if commit.batch > walk.position.batch { isFollowed = true }
    }
    for number in later where !isFollowed {
      guard let next = try readable(number) else { continue }
      try forEachCommit(next, from: UInt64(SegmentSuperblock.byteCount)) { _ in isFollowed = true }
    }
    return isFollowed
  }

  /// Whether the next segment that can be read begins with the next batch.
  private func isContinued(_ later: ArraySlice<UInt64>, _ walk: Walk) throws(JournalError) -> Bool {
    guard walk.chainIsKnown, let next = later.first, let segment = try readable(next) else {
      return false
    }
    let first = UInt64(SegmentSuperblock.byteCount)
    var walk = walk
    walk.skipRemoved()
    if try group(segment, at: first, limit: segment.byteCount(), after: walk) != nil { return true }
    return try directoryContinues(segment, walk)
  }

  /// Whether the first batch of a sealed segment is the next one, as its directory says: upkeep may have given back a part of
  /// the group.
  private func directoryContinues(_ segment: OpenSegment, _ walk: Walk) throws(JournalError) -> Bool {
    guard let footer = try segment.footer(), footer.lastBatch <= walk.durableThrough,
      let directory = try segment.directory(footer)
    else { return false }
    var contents = GroupContents(segment: segment.number, previousChain: walk.position.chain)
    var isNext = false
    let bytes = directory.bytes.extracting(0..<Int(footer.directoryByteCount))
    SegmentDirectory.forEach(bytes) { header, offset in
      guard let (item, checksum) = SegmentItem.parse(header, seed: segment.salt &+ offset) else {
        return false
      }
      contents.add(item, checksum: checksum, at: offset)
      guard case .commit(let commit) = item else { return true }
      isNext = walk.isContinued(by: commit, chain: contents.chainValue)
      return false
    }
    return isNext
  }

  private func torn(
    _ number: UInt64, _ offset: UInt64, _ later: ArraySlice<UInt64>
  ) throws(JournalError) -> End {
    var last: UInt64 = 0
    for other in [number] + later {
      guard let segment = try readable(other) else { continue }
      let from =
        other == number
        ? max(offset, UInt64(SegmentSuperblock.byteCount)) : UInt64(SegmentSuperblock.byteCount)
      try forEachCommit(segment, from: from) { last = max(last, $0.lastSequence) }
    }
    return .torn(segment: number, offset: offset, lastSequence: last)
  }

  /// Calls `body` for every commit record from `offset` on, wherever it lies.
  private func forEachCommit(
    _ segment: OpenSegment, from offset: UInt64, _ body: (CommitRecord) -> Void
  ) throws(JournalError) {
    let size = try segment.byteCount()
    guard offset < size else { return }
    let buffer = try segment.read(at: offset, byteCount: Int(size - offset))
    let bytes = buffer.bytes
    for at in stride(from: 0, through: bytes.byteCount - CommitRecord.byteCount, by: 16)
    where bytes.bigEndian(at: at, as: UInt32.self) == CommitRecord.magic {
      let seed = segment.salt &+ offset &+ UInt64(at)
      if let commit = CommitRecord(bytes.extracting(at..<bytes.byteCount), seed: seed) { body(commit) }
    }
  }

  /// The directory of a segment that has none, where its groups end, and the last batch that it says is durable. Nil when
  /// it has one, has no groups, or is not whole.
  func directory(of segment: OpenSegment) throws(JournalError) -> (SegmentDirectory, AppliedPosition, UInt64)?
  {
    guard try segment.footer() == nil else { return nil }
    let size = try segment.byteCount()
    let first = UInt64(SegmentSuperblock.byteCount)
    guard size > first else { return nil }
    let buffer = try segment.read(at: 0, byteCount: Int(size))
    var directory = SegmentDirectory()
    var end: AppliedPosition?
    var durable: UInt64 = 0
    var at = first
    while at < size {
      let rest = buffer.bytes.extracting(Int(at)..<Int(size))
      guard let (item, _) = SegmentItem.parse(rest, seed: segment.salt &+ at) else { return nil }
      directory.add(rest.extracting(0..<item.headerByteCount), at: at)
      at += UInt64(item.groupByteCount)
      guard case .commit(let commit) = item else { continue }
      at = at.roundedUp(to: AlignedBuffer.alignment)
      durable = max(durable, commit.durableThrough)
      end = AppliedPosition(
        segment: segment.number, offset: at, batch: commit.batch, sequence: commit.lastSequence,
        chain: commit.chain)
    }
    return end.map { (directory, $0, durable) }
  }

  // MARK: - One group

  /// The group at `offset` if it is whole and continues `walk`.
  private func group(
    _ segment: OpenSegment, at offset: UInt64, limit: UInt64, after walk: Walk
  ) throws(JournalError) -> PublishedBatch? {
    // Most groups are a few MiB; the rest of the segment is read when the first portion does not end one.
    var wanted = min(limit - min(offset, limit), 4 << 20)
    while wanted > 0 {
      let buffer = try segment.read(at: offset, byteCount: Int(wanted))
      switch parse(buffer.bytes, segment, at: offset, after: walk) {
      case .batch(let batch): return batch
      case .bad: return nil
      case .short:
        guard wanted < limit - offset else { return nil }
        wanted = min(limit - offset, wanted * 4)
      }
    }
    return nil
  }

  private enum Parsed {
    case batch(PublishedBatch)
    case bad
    case short
  }

  private func parse(
    _ bytes: RawSpan, _ segment: OpenSegment, at offset: UInt64, after walk: Walk
  ) -> Parsed {
    var contents = GroupContents(segment: segment.number, previousChain: walk.position.chain)
    var at = 0
    while at < bytes.byteCount {
      let place = offset + UInt64(at)
      let rest = bytes.extracting(at..<bytes.byteCount)
      guard let (item, checksum) = SegmentItem.parse(rest, seed: segment.salt &+ place) else {
        // The bytes may just end inside the header.
        return rest.byteCount < SegmentItem.headerByteCountMax ? .short : .bad
      }
      switch item {
      case .commit(let commit):
        let chain = hooks.has(.halfBatchAccepted) ? commit.chain : contents.chainValue
        guard walk.isContinued(by: commit, chain: chain),
          commit.groupByteCount == UInt64(at + CommitRecord.byteCount)
        else { return .bad }
        return .batch(contents.batch(endedBy: commit, at: place))
      case .frame(let header):
        guard header.itemByteCount <= rest.byteCount else { return .short }
        guard hooks.has(.halfBatchAccepted) || header.verifies(rest, seed: segment.salt &+ place) else {
          return .bad
        }
      case .record:
        break
      }
      contents.add(item, checksum: checksum, at: place)
      at += item.groupByteCount
    }
    return .short
  }
}

extension FrameHeader {
  /// Whether the stored bytes of the frame item at the start of `item` are what the header says.
  func verifies(_ item: RawSpan, seed: UInt64) -> Bool {
    guard itemByteCount <= item.byteCount else { return false }
    return Checksum.xxh3(item.extracting(byteCount..<itemByteCount), seed: seed) == payloadChecksum
  }
}
