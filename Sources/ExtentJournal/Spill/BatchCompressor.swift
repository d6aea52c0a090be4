internal import Bytes
internal import Threads
internal import Zstd

/// A batch with its frames' stored bytes, ready for a segment.
final class PackedBatch: @unchecked Sendable {
  // Sendable: filled by one perform of the crew (disjoint parts), then handed on whole.
  let entries: [PendingRecord]
  let plan: BatchPlan
  /// Where each frame's slot begins in `arena`, and what became of it.
  fileprivate let slots: [Int]
  fileprivate(set) var frames: [PackedFrame]
  let arena: AlignedBuffer

  struct PackedFrame: Sendable {
    var codec: Codec
    var level: Int8
    var storedByteCount: Int
  }

  /// Without records.
  static func empty() -> PackedBatch { PackedBatch([]) { AlignedBuffer(byteCount: $0) } }

  fileprivate init(_ entries: [PendingRecord], arena: (_ byteCount: Int) -> AlignedBuffer) {
    self.entries = entries
    plan = BatchPlan(entries.map(\.record), positions: entries.map(\.slot.payloadPosition))
    var offset = 0
    slots = plan.frames.map { frame in
      defer { offset += frame.rawByteCount }
      return offset
    }
    frames = plan.frames.map { PackedFrame(codec: .raw, level: 0, storedByteCount: $0.rawByteCount) }
    self.arena = arena(max(offset, 1))
  }

  /// Nil in a batch without records, which says only what is durable.
  var firstSequence: UInt64? { entries.first?.record.sequence }
  var lastSequence: UInt64? { entries.last?.record.sequence }

  /// Where in `arena` the stored bytes of frame `index` are.
  func storedRange(_ index: Int) -> Range<Int> { slots[index]..<slots[index] + frames[index].storedByteCount }
}

/// Turns pending records into packed batches: plans them and compresses their frames on the crew's threads.
final class BatchCompressor: @unchecked Sendable {
  // Sendable: each worker number has its own context, and WorkCrew runs a number on one thread at a time;
  // `idleArenas` is guarded by `lock`.
  private let crew: WorkCrew
  private let contexts: [Context]
  private let file: SpoolFile
  private let lock = Lock()
  /// Arenas of batches that are done, for the next ones: fresh memory of this size costs a page fault every 4 KiB.
  private var idleArenas: [AlignedBuffer] = []
  private static let arenaByteCount = Spiller.batchBytesMax

  private final class Context {
    let compressor = ZstdCompressor()
    let gather = AlignedBuffer(byteCount: FrameHeader.rawBytesMax)
  }

  init(file: SpoolFile, coreCount: Int) {
    self.file = file
    crew = WorkCrew(coreCount: coreCount)
    contexts = (0..<crew.workerCount).map { _ in Context() }
  }

  func end() { crew.end() }

  /// Packs `entries`, whose payloads lie in the ring, as `effort` says.
  func pack(_ entries: [PendingRecord], _ effort: PackingEffort) -> PackedBatch {
    let batch = PackedBatch(entries, arena: takeArena)
    crew.perform(batch.plan.frames.count, isUrgent: effort.isUrgent) { [self] item, worker in
      let frame = pack(batch, item, contexts[worker], effort.level)
      lock.withLock { batch.frames[item] = frame }
    }
    return batch
  }

  /// The batch lies in its segment: its memory may be used again.
  func recycle(_ batch: PackedBatch) {
    lock.withLock {
      if batch.arena.byteCount == Self.arenaByteCount, idleArenas.count < 3 { idleArenas.append(batch.arena) }
    }
  }

  private func takeArena(_ byteCount: Int) -> AlignedBuffer {
    if byteCount > Self.arenaByteCount { return AlignedBuffer(byteCount: byteCount) }
    return lock.withLock { idleArenas.popLast() } ?? AlignedBuffer(byteCount: Self.arenaByteCount)
  }

  private func pack(
    _ batch: PackedBatch, _ index: Int, _ context: Context, _ level: Int32
  ) -> PackedBatch.PackedFrame {
    let draft = batch.plan.frames[index]
    let rawByteCount = draft.rawByteCount
    let memory = batch.arena
    var arena = memory.mutableBytes
    var slot = arena._mutatingExtracting(batch.slots[index]..<batch.slots[index] + rawByteCount)
    let gathered = context.gather
    var raw = gathered.mutableBytes
    gather(draft, into: &raw)
    var target = slot._mutatingExtracting(0..<LevelLadder.storedBytesMax(rawByteCount))
    if let size = context.compressor.compress(
      raw.bytes.extracting(0..<rawByteCount), into: &target, level: level)
    {
      return PackedBatch.PackedFrame(codec: .zstd, level: Int8(level), storedByteCount: size)
    }
    slot.copy(raw.bytes.extracting(0..<rawByteCount), at: 0)
    return PackedBatch.PackedFrame(codec: .raw, level: 0, storedByteCount: rawByteCount)
  }

  private func gather(_ draft: FrameDraft, into target: inout MutableRawSpan) {
    var offset = 0
    for piece in draft.pieces {
      let count = Int(piece.range.byteCount)
      // SAFETY: a pending record's payload stays in the ring until it is retired, which happens after its batch.
      let memory = unsafe file.memory(piece.position, byteCount: count)
      unsafe target.copy(RawSpan(_unsafeBytes: UnsafeRawBufferPointer(memory)), at: offset)
      offset += count
    }
  }
}
