internal import BlockFile
internal import Bytes
internal import Threads

// Where batches become groups of a segment, and groups become durable.
//
// 1. One thread appends. A group is written whole, then it counts; what a failed write left behind lies beyond
//    `position.offset` and is overwritten by the next attempt, or cut off at the next start. The same holds for the
//    directory that seals a segment before the next one is created.
// 2. Any thread may ask for durability; one of them syncs for all that wait (group commit).
// 3. A failed sync is final: the pages may be clean and lost, so nobody tries again. The error stays.
final class SegmentWriter: @unchecked Sendable {
  // Sendable: `segment`, `directory`, `position` and `buffer` belong to the appending thread; the rest is guarded by
  // `lock`.
  private let store: SegmentStore
  private var segment: OpenSegment?
  /// The headers of what the segment holds.
  private var directory = SegmentDirectory()
  /// Where the next group goes, and the chain to continue.
  private(set) var position: AppliedPosition
  private var buffer = AlignedBuffer(byteCount: 1 << 20)

  private let lock = Lock()
  private let synced: Condition
  private var unsynced: [any BlockFile] = []
  private var namesChanged = false
  private var writtenBatch: UInt64
  private var durableBatch: UInt64
  /// The highest `durableThrough` that a group says.
  private var recordedDurable: UInt64
  private var oldestUnsynced: UInt64?
  private var isSyncing = false
  private var failure: FileError?

  private let segmentBytesMax: UInt64
  /// Set before any thread starts.
  var hooks = TestHooks()

  /// Continues after `position` in a segment of its own.
  init(store: SegmentStore, after position: AppliedPosition, segmentBytesMax: UInt64) {
    self.segmentBytesMax = segmentBytesMax
    self.store = store
    self.position = position
    writtenBatch = position.batch
    durableBatch = position.batch
    recordedDurable = position.batch
    synced = Condition(lock)
  }

  /// Appends `packed` as the next batch. On an error nothing has changed and it may be tried again when the reason
  /// is gone.
  func append(_ packed: PackedBatch) throws(FileError) -> PublishedBatch {
    let groupByteCount = size(packed)
    let target = try openSegment(for: groupByteCount, directoryByteCount: directorySize(packed))
    let start = position.offset
    var chain = BatchChain(previous: position.chain)
    if buffer.byteCount < groupByteCount { buffer = AlignedBuffer(byteCount: groupByteCount) }
    var published = PublishedBatch(end: position, extents: [], records: [])
    let listed = directory.bytes.count
    var at = 0
    for (index, draft) in packed.plan.frames.enumerated() {
      at = write(packed, index, draft, at: at, seed: target.salt &+ start, &chain, &published)
    }
    for record in packed.plan.records {
      at = write(record, at: at, seed: target.salt &+ start, &chain, &published)
    }
    let commit = CommitRecord(
      batch: position.batch + 1, firstSequence: packed.firstSequence ?? position.sequence + 1,
      lastSequence: packed.lastSequence ?? position.sequence, durableThrough: lock.withLock { durableBatch },
      groupByteCount: UInt64(at + CommitRecord.byteCount), timeNanoseconds: WallClock.nanoseconds(),
      chain: chain.value)
    let memory = buffer
    var bytes = memory.mutableBytes
    var tail = bytes._mutatingExtracting(at..<groupByteCount)
    tail.zero()
    commit.encode(into: &tail, seed: target.salt &+ start &+ UInt64(at))
    directory.add(tail.bytes.extracting(0..<CommitRecord.byteCount), at: start + UInt64(at))
    do throws(FileError) {
      try Failpoint.passHalfway(target.file, buffer, byteCount: groupByteCount, at: start)
      try target.file.write(buffer, byteCount: groupByteCount, at: start)
    } catch {
      directory.shrink(to: listed)
      throw error
    }
    hooks.reach(.groupWritten)

    position.offset = start + UInt64(groupByteCount)
    position.batch = commit.batch
    position.sequence = commit.lastSequence
    position.chain = commit.chain
    lock.withLock {
      writtenBatch = commit.batch
      recordedDurable = max(recordedDurable, commit.durableThrough)
      if oldestUnsynced == nil { oldestUnsynced = MonotonicClock.nanoseconds() }
      if unsynced.last !== target.file { unsynced.append(target.file) }
    }
    published.end = position
    return published
  }

  /// What a segment takes when `groupByteCount` bytes are added and it is then sealed.
  private func openSegment(
    for groupByteCount: Int, directoryByteCount: Int
  ) throws(FileError) -> OpenSegment {
    if let segment {
      let closing = directory.closingByteCount(adding: directoryByteCount)
      if position.offset + UInt64(groupByteCount + closing) <= segmentBytesMax { return segment }
      try seal()
    }
    let fresh = try store.create(.fresh)
    segment = fresh
    directory = SegmentDirectory()
    position.segment = fresh.number
    position.offset = UInt64(SegmentSuperblock.byteCount)
    lock.withLock {
      namesChanged = true
      // Also when no group follows: a durable name of a file without superblock would end the scan of a recovery.
      unsynced.append(fresh.file)
    }
    return fresh
  }

  /// Ends the open segment with its directory, if there is one. It is then as durable as the next sync makes it.
  func seal() throws(FileError) {
    guard let sealed = segment else { return }
    try Self.seal(
      sealed, directory, at: position, durableThrough: lock.withLock { durableBatch })
    segment = nil
    lock.withLock {
      recordedDurable = max(recordedDurable, durableBatch)
      if unsynced.last !== sealed.file { unsynced.append(sealed.file) }
    }
  }

  /// Writes the directory of `segment` to the end of its groups, which end at `position`.
  static func seal(
    _ segment: OpenSegment, _ directory: SegmentDirectory, at position: AppliedPosition,
    durableThrough: UInt64
  ) throws(FileError) {
    let footer = SegmentFooter(
      superblock: segment.superblock, lastBatch: position.batch, durableThrough: durableThrough,
      lastSequence: position.sequence, chain: position.chain)
    let closing = directory.closing(footer, at: position.offset)
    try segment.file.write(closing, byteCount: closing.byteCount, at: position.offset)
  }

  /// Whether a batch is durable and no group says so yet.
  var hasUnrecordedDurability: Bool { lock.withLock { recordedDurable < durableBatch } }

  /// What the entries for `packed` take in the directory.
  private func directorySize(_ packed: PackedBatch) -> Int {
    var bytes = SegmentDirectory.entryByteCount(CommitRecord.byteCount)
    for draft in packed.plan.frames {
      bytes += SegmentDirectory.entryByteCount(FrameHeader.byteCount(extents: draft.pieces.count))
    }
    for record in packed.plan.records {
      bytes += SegmentDirectory.entryByteCount(RecordItem.byteCount(record))
    }
    return bytes
  }

  /// The size of the group for `packed`, a multiple of 4096.
  private func size(_ packed: PackedBatch) -> Int {
    var bytes = CommitRecord.byteCount
    for (index, draft) in packed.plan.frames.enumerated() {
      bytes += (FrameHeader.byteCount(extents: draft.pieces.count) + packed.frames[index].storedByteCount)
        .roundedUp(to: 16)
    }
    for record in packed.plan.records { bytes += RecordItem.byteCount(record).roundedUp(to: 16) }
    return bytes.roundedUp(to: AlignedBuffer.alignment)
  }

  private func write(
    _ packed: PackedBatch, _ index: Int, _ draft: FrameDraft, at: Int, seed: UInt64,
    _ chain: inout BatchChain, _ published: inout PublishedBatch
  ) -> Int {
    let frame = packed.frames[index]
    let itemSeed = seed &+ UInt64(at)
    let arena = packed.arena
    let stored = arena.bytes.extracting(packed.storedRange(index))
    let header = FrameHeader(
      codec: frame.codec, level: frame.level, layer: draft.layer, storedByteCount: frame.storedByteCount,
      payloadChecksum: Checksum.xxh3(stored, seed: itemSeed), extents: draft.extents)
    let end = (at + header.itemByteCount).roundedUp(to: 16)
    let memory = buffer
    var bytes = memory.mutableBytes
    var item = bytes._mutatingExtracting(at..<end)
    chain.add(header.encode(into: &item, seed: itemSeed))
    directory.add(item.bytes.extracting(0..<header.byteCount), at: position.offset + UInt64(at))
    item.copy(stored, at: header.byteCount)
    item.zero(header.itemByteCount..<end - at)

    let address = FrameAddress(
      segment: position.segment,
      granule: UInt32((position.offset + UInt64(at)) / FrameAddress.granuleByteCount),
      kibibytes: UInt16((header.itemByteCount + 1023) / 1024))
    var skip: UInt32 = 0
    for extent in header.extents {
      published.extents.append((draft.layer, extent.range, .frame(address, skip: skip)))
      skip += UInt32(extent.range.count)
    }
    published.framedByteCount += UInt64(header.rawByteCount)
    published.storedByteCount += UInt64(end - at)
    return end
  }

  private func write(
    _ record: Record, at: Int, seed: UInt64, _ chain: inout BatchChain, _ published: inout PublishedBatch
  ) -> Int {
    let size = RecordItem.byteCount(record)
    let end = (at + size).roundedUp(to: 16)
    let memory = buffer
    var bytes = memory.mutableBytes
    var item = bytes._mutatingExtracting(at..<end)
    chain.add(RecordItem.encode(record, into: &item, seed: seed &+ UInt64(at)))
    directory.add(item.bytes.extracting(0..<size), at: position.offset + UInt64(at))
    item.zero(size..<end - at)
    if let placement = Placement(record.kind) {
      published.extents.append((record.layer, record.range, placement))
    } else {
      published.records.append(record)
    }
    return end
  }

  /// Returns when batch `batch`, which was appended, survives power loss. Throws the first error that a sync had.
  func sync(through batch: UInt64) throws(FileError) {
    lock.lock()
    defer { lock.unlock() }
    while durableBatch < batch {
      if let failure { throw failure }
      if isSyncing {
        synced.wait()
        continue
      }
      isSyncing = true
      let files = unsynced
      let names = namesChanged
      let reached = writtenBatch
      // The last file goes on being written: it is listed again by the next append.
      unsynced = []
      namesChanged = false
      oldestUnsynced = nil
      lock.unlock()
      hooks.reach(.syncBegun)
      var outcome = syncNow(files, names: names)
      if outcome != nil, hooks.has(.syncRetried) { outcome = syncNow(files, names: names) }
      hooks.reach(.synced)
      lock.lock()
      isSyncing = false
      if let outcome { failure = failure ?? outcome } else { durableBatch = max(durableBatch, reached) }
      synced.broadcast()
    }
  }

  /// Makes everything durable that was written, a directory behind the last batch included. Only when nobody appends.
  func syncAll() throws(FileError) {
    let (files, names) = lock.withLock { (unsynced, namesChanged) }
    if let error = syncNow(files, names: names) { throw error }
  }

  private func syncNow(_ files: [any BlockFile], names: Bool) -> FileError? {
    do throws(FileError) {
      for file in files { try file.sync() }
      if names { try store.files.syncNames() }
      return nil
    } catch {
      return error
    }
  }

  /// The last batch that survives power loss, and since when another waits for that (nanoseconds of MonotonicClock).
  var durability: (batch: UInt64, written: UInt64, oldestUnsynced: UInt64?) {
    lock.withLock { (durableBatch, writtenBatch, oldestUnsynced) }
  }
}
