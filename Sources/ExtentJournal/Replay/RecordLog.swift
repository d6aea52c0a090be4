internal import BlockFile
internal import Bytes

/// One record of a journal as its segments have it.
package struct LoggedRecord: Sendable, Equatable {
  /// Its place in the order of commits, from 1.
  package var sequence: UInt64
  /// When its batch was written, in nanoseconds since 1970; nil for what upkeep has moved.
  package var timeNanoseconds: UInt64?
  /// The name of the disk; nil when the record speaks of the journal as a whole, or the disk is not known.
  package var disk: String?
  /// The generation: its name, or its number if it has none (any more); nil when it speaks of no generation.
  package var generation: String?
  /// What it says, in one word.
  package var kind: String
  /// Where on the disk, and how many bytes; both 0 when it speaks of no sectors.
  package var offset: UInt64
  /// See `offset`.
  package var length: UInt64
  /// What it takes in its segment, in bytes: of a frame that several share, its part.
  package var storedByteCount: UInt64
  /// The last sequence of its batch; nil for what upkeep has moved.
  package var batchEnd: UInt64?
}

/// Every record of a journal, in the order of sequences, one segment in memory at a time.
///
/// What upkeep has moved stands where it belongs, once. What it has freed is not there any more.
package enum RecordLog {
  /// Calls `body` for each record; with `disk`, those of that disk only. An unknown disk is `.usage`.
  package static func forEach(
    in reader: JournalReader, disk: String?, _ body: (LoggedRecord) throws(JournalError) -> Void
  ) throws(JournalError) {
    let wanted = try disk.map { name throws(JournalError) in try reader.find(name).layer.key.disk }
    var moved = try movedItems(reader.store)[...]
    func deliver(_ items: ArraySlice<Item>) throws(JournalError) {
      var last: Item?
      for item in items.sorted(by: { $0.isBefore($1) }) {
        // The copy of what is still there where it came from.
        if let last, last.record == item.record, item.batchEnd == nil { continue }
        last = item
        guard wanted.map({ $0 == item.record.layer.disk }) ?? true else { continue }
        try body(item.logged(reader))
      }
    }
    for number in try list(reader.store, .fresh) {
      for group in try groups(of: number, reader.store) {
        guard let end = group.first?.batchEnd else { continue }
        let count = moved.prefix { $0.record.sequence <= end }.count
        try deliver(moved.prefix(count) + group)
        moved = moved.dropFirst(count)
      }
    }
    try deliver(moved)
  }

  /// A record, or a piece of one that a frame holds, and what it takes.
  private struct Item {
    var record: Record
    var storedByteCount: UInt64
    var timeNanoseconds: UInt64?
    var batchEnd: UInt64?

    /// In the order of sequences and offsets; what was moved comes behind what it is a copy of.
    func isBefore(_ other: Item) -> Bool {
      if record.sequence != other.record.sequence { return record.sequence < other.record.sequence }
      if record.range.start != other.record.range.start {
        return record.range.start < other.record.range.start
      }
      return batchEnd != nil && other.batchEnd == nil
    }

    func logged(_ reader: JournalReader) -> LoggedRecord {
      let layer = record.layer
      let state = reader.catalog.layers.first { $0.key == layer }
      let number = layer.generation.number == 0 ? nil : String(layer.generation.number)
      return LoggedRecord(
        sequence: record.sequence, timeNanoseconds: timeNanoseconds,
        disk: reader.catalog.disks[layer.disk]?.name, generation: state?.title ?? number,
        kind: record.kind.word, offset: record.range.isEmpty ? 0 : record.range.bytes.start,
        length: record.range.byteCount, storedByteCount: storedByteCount, batchEnd: batchEnd)
    }
  }

  private static func list(_ store: SegmentStore, _ kind: SegmentKind) throws(JournalError) -> [UInt64] {
    do throws(FileError) { return try store.list(kind) } catch { throw JournalError(error) }
  }

  /// What upkeep has moved, in order.
  private static func movedItems(_ store: SegmentStore) throws(JournalError) -> [Item] {
    var items: [Item] = []
    for number in try list(store, .moved) {
      for item in try groups(of: number, store).joined() where item.record.kind != .removed {
        var moved = item
        moved.batchEnd = nil
        moved.timeNanoseconds = nil
        items.append(moved)
      }
    }
    return items.sorted { $0.isBefore($1) }
  }

  /// The groups of a segment, in order; none of one that cannot be read.
  private static func groups(of number: UInt64, _ store: SegmentStore) throws(JournalError) -> [[Item]] {
    guard case .success(let segment) = try store.segmentOrFlaw(number),
      let inventory = try SegmentInventory.read(segment)
    else { return [] }
    var groups: [[Item]] = []
    var group: [Item] = []
    func add(_ header: RawSpan, _ offset: UInt64) -> Bool {
      switch SegmentItem.parse(header, seed: segment.salt &+ offset)?.item {
      case .frame(let header)?: group += pieces(of: header)
      case .record(let record)?:
        group.append(Item(record: record, storedByteCount: UInt64(RecordItem.byteCount(record))))
      case .commit(let commit)?:
        for index in group.indices {
          group[index].batchEnd = commit.lastSequence
          group[index].timeNanoseconds = commit.timeNanoseconds
        }
        groups.append(group)
        group = []
      case nil: return false
      }
      return true
    }
    if let footer = try segment.footer(), let directory = try segment.directory(footer) {
      let bytes = directory.bytes.extracting(0..<Int(footer.directoryByteCount))
      SegmentDirectory.forEach(bytes, add)
    } else {
      // SAFETY: bytes of UInt8 have no padding.
      unsafe SegmentDirectory.forEach(inventory.directory.bytes.span.bytes, add)
    }
    return groups
  }

  /// The pieces of a frame, each with its part of what the frame takes.
  private static func pieces(of header: FrameHeader) -> [Item] {
    let total = header.extents.reduce(0) { $0 + $1.range.count }
    return header.extents.map { extent in
      Item(
        record: Record(
          kind: .data, layer: header.layer, sequence: extent.sequence, range: extent.range),
        storedByteCount: UInt64(header.itemByteCount) * extent.range.count / max(total, 1))
    }
  }
}

extension RecordKind {
  /// The word for it in a log.
  fileprivate var word: String {
    switch self {
    case .data: "data"
    case .zero: "zero"
    case .trim: "trim"
    case .base: "base"
    case .release: "release"
    case .disk: "disk"
    case .begin: "begin"
    case .complete: "complete"
    case .taint: "taint"
    case .bitmapWhole: "bitmap"
    case .preSeal: "pre-seal"
    case .seal: "seal"
    case .end: "end"
    case .drop: "drop"
    case .merge: "merge"
    case .source: "source"
    case .speed: "speed"
    case .removed: "removed"
    }
  }
}
