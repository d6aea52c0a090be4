internal import BlockFile
internal import Bytes

// Batches out of segments, in order, as recovery reads them.
//
// A batch is believed when every checksum of its group is right, its number is the next one and its chain fits. The
// first place where that fails ends the scan: a group that is not whole, or a segment whose superblock never got to
// the disk. Does any commit record behind it say that the missing batch was durable, the journal is damaged. Otherwise
// a crash tore it off, and with it goes everything behind: segments that follow hold later batches, written before
// either was durable.
struct SegmentScanner {
  let store: SegmentStore
  /// Whether stored bytes are checked too. Not needed for what was durable before the crash.
  let verifiesPayloads: Bool
  var hooks = TestHooks()

  /// Why a scan ended.
  enum End {
    /// Behind the last group of the last segment.
    case clean
    /// At a group that is not whole, or (offset 0) at a segment without superblock.
    case torn(segment: UInt64, offset: UInt64)
  }

  /// Calls `body` for each batch after `position`, in order, and returns how it ended and the last position.
  func scan(
    after start: AppliedPosition, segments: [UInt64],
    _ body: (PublishedBatch) throws(JournalError) -> Void
  ) throws(JournalError) -> (end: End, position: AppliedPosition) {
    var position = start
    let numbers = segments.filter { $0 >= max(start.segment, 1) }
    for (index, number) in numbers.enumerated() {
      let rest = numbers[index...]
      guard let segment = try open(number, appliedUpTo: start.segment) else {
        return try end(at: (number, 0), of: rest, after: position)
      }
      var offset = number == start.segment ? start.offset : UInt64(SegmentSuperblock.byteCount)
      let size = try byteCount(segment)
      while offset < size {
        guard let group = try group(segment, number, at: offset, size: size, after: position) else {
          return try end(at: (number, offset), of: rest, after: position)
        }
        try body(group)
        position = group.end
        offset = group.end.offset
      }
    }
    return (.clean, position)
  }

  /// What the index points to must be there; a later segment may be one whose superblock was never durable (nil).
  private func open(_ number: UInt64, appliedUpTo applied: UInt64) throws(JournalError) -> SegmentStore
    .OpenSegment?
  {
    try number <= applied ? store.segment(number) : store.segmentUnlessTorn(number)
  }

  private func end(
    at torn: (segment: UInt64, offset: UInt64), of rest: ArraySlice<UInt64>, after position: AppliedPosition
  ) throws(JournalError) -> (end: End, position: AppliedPosition) {
    for number in rest {
      guard let segment = try store.segmentUnlessTorn(number),
        try isFollowed(torn, within: segment, number, size: byteCount(segment), after: position)
      else { continue }
      let place = "offset \(torn.offset) of segments/\(SegmentStore.name(torn.segment))"
      throw JournalError(
        .damaged,
        "batch \(position.batch + 1) at \(place) is damaged and was durable; restore it from a copy of the journal"
      )
    }
    return (.torn(segment: torn.segment, offset: torn.offset), position)
  }

  private func byteCount(_ segment: SegmentStore.OpenSegment) throws(JournalError) -> UInt64 {
    do throws(FileError) { return try segment.file.byteCount() } catch { throw JournalError(error) }
  }

  /// Whether some commit record behind the torn group says that the torn batch was durable.
  private func isFollowed(
    _ torn: (segment: UInt64, offset: UInt64), within segment: SegmentStore.OpenSegment, _ number: UInt64,
    size: UInt64, after position: AppliedPosition
  ) throws(JournalError) -> Bool {
    let start = number == torn.segment ? torn.offset : UInt64(SegmentSuperblock.byteCount)
    guard start < size else { return false }
    let bytes = try read(segment, at: start, byteCount: Int(size - start))
    var at = 0
    while at + CommitRecord.byteCount <= bytes.byteCount {
      let rest = bytes.bytes.extracting(at..<bytes.byteCount)
      if rest.bigEndian(at: 0, as: UInt32.self) == CommitRecord.magic,
        let commit = CommitRecord(rest, seed: segment.salt &+ start &+ UInt64(at)),
        commit.durableThrough > position.batch
      {
        return true
      }
      at += 16
    }
    return false
  }

  private func read(
    _ segment: SegmentStore.OpenSegment, at offset: UInt64, byteCount: Int
  ) throws(JournalError) -> AlignedBuffer {
    let buffer = AlignedBuffer(byteCount: byteCount)
    var target = buffer.mutableBytes
    do throws(FileError) {
      let count = try segment.file.read(into: &target, at: offset)
      if count < byteCount { target.zero(count..<byteCount) }
    } catch {
      throw JournalError(error)
    }
    return buffer
  }

  /// The group at `offset` if it is whole and continues `position`.
  private func group(
    _ segment: SegmentStore.OpenSegment, _ number: UInt64, at offset: UInt64, size: UInt64,
    after position: AppliedPosition
  ) throws(JournalError) -> PublishedBatch? {
    // Most groups are a few MiB; the rest of the segment is read when the first portion does not end one.
    var wanted = min(size - offset, 4 << 20)
    while true {
      let buffer = try read(segment, at: offset, byteCount: Int(wanted))
      switch parse(buffer.bytes, segment, number, at: offset, after: position) {
      case .batch(let batch): return batch
      case .bad: return nil
      case .short:
        guard wanted < size - offset else { return nil }
        wanted = min(size - offset, wanted * 4)
      }
    }
  }

  private enum Parsed {
    case batch(PublishedBatch)
    case bad
    case short
  }

  private func parse(
    _ bytes: RawSpan, _ segment: SegmentStore.OpenSegment, _ number: UInt64, at offset: UInt64,
    after position: AppliedPosition
  ) -> Parsed {
    var batch = PublishedBatch(end: position, extents: [], records: [])
    var chain = BatchChain(previous: position.chain)
    var at = 0
    while at + RecordItem.fixedByteCount <= bytes.byteCount {
      let item = bytes.extracting(at..<bytes.byteCount)
      let seed = segment.salt &+ offset &+ UInt64(at)
      switch item.bigEndian(at: 0, as: UInt32.self) {
      case FrameHeader.magic:
        guard let header = FrameHeader(item, seed: seed) else { return undecodable(item) }
        guard header.itemByteCount <= item.byteCount else { return .short }
        if verifiesPayloads, !hooks.has(.halfBatchAccepted) {
          let stored = item.extracting(header.byteCount..<header.itemByteCount)
          guard Checksum.xxh3(stored, seed: seed) == header.payloadChecksum else { return .bad }
        }
        chain.add(item.bigEndian(at: 32))
        add(header, number, offset + UInt64(at), to: &batch)
        at = (at + header.itemByteCount).roundedUp(to: 16)
      case RecordItem.magic:
        guard let (record, checksum) = RecordItem.decode(item, seed: seed) else { return undecodable(item) }
        chain.add(checksum)
        if record.kind.hasExtent {
          batch.extents.append((record.layer, record.range, record.kind == .zero ? .zero : .trim))
        } else {
          batch.records.append(record)
        }
        at = (at + RecordItem.byteCount(record)).roundedUp(to: 16)
      case CommitRecord.magic:
        guard item.byteCount >= CommitRecord.byteCount else { return .short }
        guard let commit = CommitRecord(item, seed: seed), commit.batch == position.batch + 1,
          commit.chain == chain.value || hooks.has(.halfBatchAccepted),
          commit.groupByteCount == UInt64(at + CommitRecord.byteCount),
          commit.firstSequence == position.sequence + 1
        else { return .bad }
        batch.records.sort { $0.sequence < $1.sequence }
        batch.end = AppliedPosition(
          segment: number,
          offset: offset + UInt64((at + CommitRecord.byteCount).roundedUp(to: AlignedBuffer.alignment)),
          batch: commit.batch, sequence: commit.lastSequence, chain: commit.chain)
        return .batch(batch)
      default:
        return .bad
      }
    }
    return .short
  }

  /// A header that does not decode is short when the bytes may just end inside it, and bad otherwise.
  private func undecodable(_ item: RawSpan) -> Parsed {
    item.byteCount < FrameHeader.byteCount(extents: 512) || item.byteCount < RecordItem.fixedByteCount + 65536
      ? .short : .bad
  }

  private func add(_ header: FrameHeader, _ number: UInt64, _ offset: UInt64, to batch: inout PublishedBatch)
  {
    let address = FrameAddress(
      segment: number, granule: UInt32(offset / FrameAddress.granuleByteCount),
      kibibytes: UInt16((header.itemByteCount + 1023) / 1024))
    var skip: UInt32 = 0
    for extent in header.extents {
      batch.extents.append((header.layer, extent.range, .frame(address, skip: skip)))
      skip += UInt32(extent.range.count)
    }
  }
}
