internal import BlockFile
internal import Bytes
internal import Threads

// Where upkeep writes: groups of moved frames and records in segments of their own, beside the journal's history and outside
// its chain.
//
// 1. A group is whole or does not count: its commit record holds the sum of its headers, and a reader without a directory
//    verifies every stored byte.
// 2. Nothing points into a group before `sync` has returned.
// 3. Each commit record says which batch was known to be durable. Who builds an index again needs that before it can believe
//    the directory of a segment whose groups were punched: so upkeep writes a group, if only an empty one, before it frees.
//
// One thread at a time.
final class MovedWriter {
  private let store: SegmentStore
  private let segmentBytesMax: UInt64
  /// The batch that is known to be durable.
  private let durableBatch: () -> UInt64
  private var segment: OpenSegment?
  private var directory = SegmentDirectory()
  /// Where the next group goes, and the highest sequence in the segment.
  private var end: UInt64 = 0
  private var lastSequence: UInt64 = 0
  /// The group that is being made.
  private var buffer = AlignedBuffer(byteCount: 1 << 20)
  private var used = 0
  private var listed = 0
  private var sequences: ClosedRange<UInt64>?
  private var chain = BatchChain(previous: 0)
  private var namesChanged = false
  private var unsynced: [any BlockFile] = []
  /// In how many segments, the newest, something may not be durable when a process has died: the open one, and the one that was
  /// ended for it. Whoever makes a group syncs it before the next one is begun.
  static let unsyncedSegmentsMax = 2

  /// The batch that the groups written and synced so far call durable.
  private(set) var recordedDurable: UInt64 = 0
  private var writtenDurable: UInt64 = 0
  /// The segment that says so: the claim goes when that goes.
  private(set) var recordedHome: UInt64?
  private var writtenHome: UInt64?
  /// What segments that are to go have called durable.
  private var inherited: UInt64 = 0
  /// What was written, in bytes.
  private(set) var writtenByteCount: UInt64 = 0

  init(store: SegmentStore, segmentBytesMax: UInt64, durableBatch: @escaping () -> UInt64) {
    self.store = store
    self.segmentBytesMax = segmentBytesMax
    self.durableBatch = durableBatch
  }

  var segmentByteCountMax: Int { Int(segmentBytesMax) }
  /// The segment that takes groups now: nobody else may touch it.
  var openNumber: UInt64? { segment?.number }
  /// Bytes of the group so far.
  var pendingByteCount: Int { used }

  /// Begins a group that will take `byteCount` bytes at most, in a segment that has room for it.
  func begin(byteCount: Int) throws(FileError) {
    // What failed in the middle left a group behind.
    if used > 0 { abandonGroup() }
    if segment != nil,
      end + UInt64(byteCount + directory.closingByteCount(adding: byteCount)) > segmentBytesMax
    {
      try seal()
    }
    if segment == nil {
      let fresh = try store.create(.moved)
      segment = fresh
      directory = SegmentDirectory()
      end = UInt64(SegmentSuperblock.byteCount)
      lastSequence = 0
      namesChanged = true
    }
    listed = directory.bytes.count
    sequences = nil
    chain = BatchChain(previous: 0)
  }

  private func seed() -> UInt64 { (segment?.salt ?? 0) &+ end &+ UInt64(used) }

  private func makeRoom(_ byteCount: Int) {
    guard used + byteCount > buffer.byteCount else { return }
    let larger = AlignedBuffer(byteCount: max(2 * buffer.byteCount, used + byteCount).roundedUp(to: 4096))
    var target = larger.mutableBytes
    let old = buffer
    target.copy(old.bytes.extracting(0..<used), at: 0)
    buffer = larger
  }

  private func note(_ sequence: UInt64) {
    sequences =
      min(sequences?.lowerBound ?? sequence, sequence)...max(sequences?.upperBound ?? sequence, sequence)
  }

  /// Adds a frame with these stored bytes; returns where it will lie.
  func add(
    codec: Codec, level: Int8, layer: LayerKey, extents: [FrameExtent], stored: RawSpan
  ) -> FrameAddress {
    let seed = seed()
    let header = FrameHeader(
      codec: codec, level: level, layer: layer, storedByteCount: stored.byteCount,
      payloadChecksum: Checksum.xxh3(stored, seed: seed), extents: extents)
    let size = header.itemByteCount.roundedUp(to: 16)
    makeRoom(size)
    let memory = buffer
    var all = memory.mutableBytes
    var item = all._mutatingExtracting(used..<used + size)
    chain.add(header.encode(into: &item, seed: seed))
    item.copy(stored, at: header.byteCount)
    item.zero(header.itemByteCount..<size)
    let offset = end + UInt64(used)
    directory.add(item.bytes.extracting(0..<header.byteCount), at: offset)
    for extent in extents { note(extent.sequence) }
    used += size
    return FrameAddress(
      segment: segment?.number ?? 0, granule: UInt32(offset / FrameAddress.granuleByteCount),
      kibibytes: UInt16((header.itemByteCount + 1023) / 1024))
  }

  /// Adds a record without payload.
  func add(_ record: Record) {
    let seed = seed()
    let byteCount = RecordItem.byteCount(record)
    let size = byteCount.roundedUp(to: 16)
    makeRoom(size)
    let memory = buffer
    var all = memory.mutableBytes
    var item = all._mutatingExtracting(used..<used + size)
    chain.add(RecordItem.encode(record, into: &item, seed: seed))
    item.zero(byteCount..<size)
    directory.add(item.bytes.extracting(0..<byteCount), at: end + UInt64(used))
    note(record.sequence)
    used += size
  }

  /// Writes the group. After an error nothing of it counts.
  func finish() throws(FileError) {
    guard let segment else { preconditionFailure("no group was begun") }
    let size = (used + CommitRecord.byteCount).roundedUp(to: AlignedBuffer.alignment)
    makeRoom(size - used)
    let durable = max(durableBatch(), inherited)
    let commit = CommitRecord(
      batch: 0, firstSequence: sequences?.lowerBound ?? 0, lastSequence: sequences?.upperBound ?? 0,
      durableThrough: durable, groupByteCount: UInt64(used + CommitRecord.byteCount),
      timeNanoseconds: WallClock.nanoseconds(), chain: chain.value)
    let memory = buffer
    var all = memory.mutableBytes
    var tail = all._mutatingExtracting(used..<size)
    tail.zero()
    commit.encode(into: &tail, seed: seed())
    directory.add(tail.bytes.extracting(0..<CommitRecord.byteCount), at: end + UInt64(used))
    defer { used = 0 }
    do throws(FileError) {
      try segment.file.write(buffer, byteCount: size, at: end)
    } catch {
      directory.shrink(to: listed)
      throw error
    }
    end += UInt64(size)
    writtenByteCount += UInt64(size)
    lastSequence = max(lastSequence, commit.lastSequence)
    writtenDurable = max(writtenDurable, durable)
    // Of two equal claims the later segment stays longer.
    if durable == writtenDurable { writtenHome = segment.number }
    if unsynced.last !== segment.file { unsynced.append(segment.file) }
  }

  /// Forgets the group that is being made.
  func abandonGroup() {
    directory.shrink(to: listed)
    used = 0
  }

  /// Makes everything written so far durable. A failed sync is final for the caller: it must not be tried again.
  func sync() throws(FileError) {
    for file in unsynced { try file.sync() }
    if namesChanged { try store.files.syncNames() }
    unsynced = []
    namesChanged = false
    recordedDurable = writtenDurable
    recordedHome = writtenHome
  }

  /// The groups to come also call durable what a segment that is to go has called so.
  func inherit(_ durableBatch: UInt64) { inherited = max(inherited, durableBatch) }

  /// Ends the open segment with its directory, if there is one. Durable with the next `sync`.
  func seal() throws(FileError) {
    guard let sealed = segment else { return }
    var position = AppliedPosition()
    position.offset = end
    position.sequence = lastSequence
    try SegmentWriter.seal(sealed, directory, at: position, durableThrough: writtenDurable)
    writtenByteCount += UInt64(directory.closingByteCount)
    if unsynced.last !== sealed.file { unsynced.append(sealed.file) }
    segment = nil
  }
}
