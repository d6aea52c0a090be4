internal import Bytes

// What a segment holds, item by item, and where its groups end: from its directory, or, of one that has none, from a walk
// over its groups up to the first that is not whole. In a walk over moved groups every stored byte is verified: nothing
// else says which of them were durable.

/// See the note at the top of the file.
struct SegmentInventory {
  var frames: [(header: FrameHeader, offset: UInt64)] = []
  var records: [Record] = []
  /// The first batch; 0 when there is none.
  var firstBatch: UInt64 = 0
  /// Behind the last group: where it ends, and the batch, sequence and chain there. In a moved segment batch and chain
  /// are 0 and the sequence is the highest of what it holds.
  var end: AppliedPosition
  /// The ends of its batches, in order; of a moved segment none.
  var batchEnds: [BatchEnd] = []
  /// A batch that the segment says is durable.
  var durableThrough: UInt64 = 0
  /// Whether it comes from a directory: what a group holds may then be punched.
  var isSealed = false
  /// The headers, as its directory has them or would have them.
  var directory = SegmentDirectory()

  private init(_ segment: OpenSegment) {
    end = AppliedPosition()
    end.segment = segment.number
    end.offset = UInt64(SegmentSuperblock.byteCount)
  }

  /// The inventory of `segment`, to which nothing is appended any more. Nil when it is damaged: neither the directory nor
  /// all of the groups before it can be read.
  static func read(_ segment: OpenSegment) throws(JournalError) -> SegmentInventory? {
    var inventory = SegmentInventory(segment)
    guard let footer = try segment.footer() else {
      try inventory.walk(segment)
      return inventory
    }
    guard let directory = try segment.directory(footer) else {
      // A power cut may leave the footer and not the directory; nothing of such a segment was ever punched.
      try inventory.walk(segment)
      return inventory.end.offset == footer.directoryOffset ? inventory : nil
    }
    var isWhole = true
    let bytes = directory
    SegmentDirectory.forEach(bytes.bytes.extracting(0..<Int(footer.directoryByteCount))) { header, offset in
      guard let (item, _) = SegmentItem.parse(header, seed: segment.salt &+ offset) else {
        isWhole = false
        return false
      }
      inventory.add(item, at: offset)
      return true
    }
    guard isWhole else { return nil }
    inventory.isSealed = true
    inventory.end.offset = footer.directoryOffset
    inventory.end.batch = footer.lastBatch
    inventory.end.sequence = footer.lastSequence
    inventory.end.chain = footer.chain
    inventory.durableThrough = max(inventory.durableThrough, footer.durableThrough)
    return inventory
  }

  private mutating func add(_ item: SegmentItem, at offset: UInt64) {
    switch item {
    case .frame(let header): frames.append((header, offset))
    case .record(let record): records.append(record)
    case .commit(let commit):
      if firstBatch == 0 { firstBatch = commit.batch }
      if commit.batch > 0 {
        batchEnds.append(
          BatchEnd(sequence: commit.lastSequence, timeNanoseconds: commit.timeNanoseconds))
      }
      durableThrough = max(durableThrough, commit.durableThrough)
    }
  }

  private mutating func walk(_ segment: OpenSegment) throws(JournalError) {
    let size = try segment.byteCount()
    guard size > end.offset else { return }
    let buffer = try segment.read(at: 0, byteCount: Int(size))
    let isMoved = segment.superblock.kind == .moved
    var group: [(SegmentItem, UInt64)] = []
    var listed = directory
    var chain = BatchChain(previous: 0)
    var at = end.offset
    while at < size {
      let rest = buffer.bytes.extracting(Int(at)..<Int(size))
      guard let (item, checksum) = SegmentItem.parse(rest, seed: segment.salt &+ at) else { return }
      if isMoved, case .frame(let header) = item, !header.verifies(rest, seed: segment.salt &+ at) { return }
      listed.add(rest.extracting(0..<item.headerByteCount), at: at)
      group.append((item, at))
      at += UInt64(item.groupByteCount)
      guard case .commit(let commit) = item else {
        chain.add(checksum)
        continue
      }
      guard !isMoved || commit.chain == chain.value else { return }
      at = at.roundedUp(to: AlignedBuffer.alignment)
      for (item, offset) in group { add(item, at: offset) }
      end = AppliedPosition(
        segment: segment.number, offset: at, batch: commit.batch,
        sequence: max(end.sequence, commit.lastSequence), chain: isMoved ? 0 : commit.chain)
      directory = listed
      group = []
      chain = BatchChain(previous: 0)
    }
  }
}
