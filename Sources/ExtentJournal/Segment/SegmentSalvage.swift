internal import Bytes

/// Something in the segments that was durable and is not whole.
struct SegmentDamage: Sendable {
  var segment: UInt64
  /// Where in the segment, in bytes; nil: all of it.
  var offset: UInt64?
  /// What cannot be read because of it; nil when nothing says so any more.
  var extents: (layer: LayerKey, list: [FrameExtent])?
  /// The records that are concerned, or among which the lost ones are.
  var sequences: ClosedRange<UInt64>

  /// Whether nobody knows what was lost: anything written by those records may be.
  var isUnknown: Bool { extents == nil }

  /// What is lost, in words.
  var sentence: String {
    let place = offset.map { "offset \($0) of " } ?? ""
    return
      "records \(sequences.lowerBound) to \(sequences.upperBound) at \(place)segments/\(SegmentStore.name(segment)) are damaged"
  }

  static func whole(_ segment: UInt64) -> SegmentDamage {
    SegmentDamage(segment: segment, offset: nil, extents: nil, sequences: 0...0)
  }
}

// What can still be had of a damaged group. A directory knows every item of it, so that only what cannot be read is
// missed, by name. Without one every item whose header is right is taken: headers are self-describing and their checksums are seeded
// by place, so nothing else can pass for one. What lies between them is lost, and nobody knows what it was.
extension SegmentScanner {
  /// The group at `offset`, or what is left of it up to the next commit record, or to the end of the segment.
  func salvage(
    _ segment: OpenSegment, at offset: UInt64, limit: UInt64, _ footer: SegmentFooter?, _ walk: inout Walk
  ) throws(JournalError) -> PublishedBatch {
    let buffer = try segment.read(at: offset, byteCount: Int(limit - offset))
    let bytes = buffer.bytes
    if let footer, let batch = try fromDirectory(segment, footer, bytes, at: offset, walk) {
      walk.advance(to: batch)
      return batch
    }
    var contents = GroupContents(segment: segment.number, previousChain: 0)
    var firstGap: UInt64?
    var at = 0
    while at < bytes.byteCount {
      let place = offset + UInt64(at)
      let rest = bytes.extracting(at..<bytes.byteCount)
      guard let (item, checksum) = SegmentItem.parse(rest, seed: segment.salt &+ place) else {
        firstGap = firstGap ?? place
        at += 16
        continue
      }
      if case .commit(let commit) = item, commit.batch > walk.position.batch {
        let batch = contents.batch(endedBy: commit, at: place)
        let isNext = commit.batch == walk.position.batch + 1
        if let gap = firstGap ?? (isNext ? nil : offset) {
          lose(unknown(segment, gap, walk, through: commit.lastSequence), &walk)
        }
        walk.advance(to: batch)
        return batch
      }
      if case .frame(let header) = item { check(header, rest, segment, at: place) }
      contents.add(item, checksum: checksum, at: place)
      at += item.groupByteCount
    }
    var end = walk.position
    end.segment = segment.number
    end.offset = limit
    end.sequence = max(end.sequence, contents.lastSequence)
    lose(
      unknown(segment, firstGap ?? offset, walk, through: max(end.sequence, walk.position.sequence + 1)),
      &walk)
    let batch = contents.batch(upTo: end)
    walk.position = end
    walk.chainIsKnown = false
    return batch
  }

  /// Reports what is gone without a trace.
  func lose(_ damage: SegmentDamage, _ walk: inout Walk) {
    var damage = damage
    if damage.offset == nil {
      damage.sequences = walk.position.sequence + 1...walk.position.sequence + 1
      walk.chainIsKnown = false
    }
    report(damage)
  }

  private func unknown(
    _ segment: OpenSegment, _ offset: UInt64, _ walk: Walk, through last: UInt64
  ) -> SegmentDamage {
    let first = walk.position.sequence + 1
    return SegmentDamage(
      segment: segment.number, offset: offset, extents: nil, sequences: first...max(first, last))
  }

  /// Reports the extents of a frame whose stored bytes are not what its header says.
  private func check(_ header: FrameHeader, _ item: RawSpan, _ segment: OpenSegment, at offset: UInt64) {
    guard !header.verifies(item, seed: segment.salt &+ offset) else { return }
    let sequences = header.extents.map(\.sequence)
    report(
      SegmentDamage(
        segment: segment.number, offset: offset, extents: (header.layer, header.extents),
        sequences: (sequences.min() ?? 0)...(sequences.max() ?? 0)))
  }

  /// The group at `offset` as the directory tells it, if it goes on from `walk`; `bytes` are the segment's from there
  /// on.
  private func fromDirectory(
    _ segment: OpenSegment, _ footer: SegmentFooter, _ bytes: RawSpan, at offset: UInt64, _ walk: Walk
  ) throws(JournalError) -> PublishedBatch? {
    guard let directory = try segment.directory(footer) else { return nil }
    var contents = GroupContents(segment: segment.number, previousChain: walk.position.chain)
    var frames: [(header: FrameHeader, offset: UInt64)] = []
    var result: PublishedBatch?
    SegmentDirectory.forEach(directory.bytes.extracting(0..<Int(footer.directoryByteCount))) {
      header, place in
      guard place >= offset else { return true }
      guard let (item, checksum) = SegmentItem.parse(header, seed: segment.salt &+ place) else {
        return false
      }
      contents.add(item, checksum: checksum, at: place)
      if case .frame(let header) = item { frames.append((header, place)) }
      guard case .commit(let commit) = item else { return true }
      if walk.isContinued(by: commit, chain: contents.chainValue) {
        result = contents.batch(endedBy: commit, at: place)
      }
      return false
    }
    guard let result else { return nil }
    for (header, place) in frames {
      let item = bytes.extracting(Int(place - offset)..<bytes.byteCount)
      let isThere = FrameHeader(item, seed: segment.salt &+ place) == header
      check(header, isThere ? item : bytes.extracting(0..<0), segment, at: place)
    }
    return result
  }
}
