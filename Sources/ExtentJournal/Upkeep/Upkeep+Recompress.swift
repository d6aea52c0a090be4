internal import BlockFile
internal import Bytes
internal import LMDB
internal import Threads

// Recompression: what has been cold for ten minutes is stored as frames of 256 KiB at level 6, when there is nothing else to do.
// A seventh less than what a stream leaves behind, for CPU that nobody wants; a read of it decompresses more.
//
// It is a move like any other (rule C): frames of one segment whose live sectors follow one another on the disk are joined, if that
// saves a thirtieth at least. What does not shrink at level −1 is not tried at 6. A segment is tried once in the life
// of the process, and not again when what it holds came from here: those frames say level 6.

extension Upkeep {
  private static let coldLevel: Int32 = 6
  private static let joinedSectors: UInt64 = 512

  /// Frames that become one.
  private struct Join {
    var frames: [Planned] = []
    var sectors: UInt64 = 0
    var storedBytes = 0

    /// Whether `frame`, with so many live sectors, may be added: it goes on where the last one ends, in the same 256 KiB.
    func takes(_ frame: Planned, _ count: UInt64) -> Bool {
      guard let last = frames.last, let end = last.liveExtents.last?.range.end,
        let start = frame.liveExtents.first?.range.start
      else { return frames.isEmpty }
      return last.header.layer == frame.header.layer && end == start
        && sectors + count <= Upkeep.joinedSectors
        && start / Upkeep.joinedSectors == (frames[0].liveExtents[0].range.start) / Upkeep.joinedSectors
    }
  }

  /// Recompresses one segment older than `coldNanoseconds`. False when there is none.
  func recompressOne(
    olderThan coldNanoseconds: UInt64, _ isCancelled: () -> Bool
  ) throws(JournalError) -> Bool {
    let now = WallClock.nanoseconds()
    for number in usage.keys.sorted() where !recompressed.contains(number) {
      guard let known = usage[number], known.liveBytes > 0 else { continue }
      guard case .success(let segment) = try store.segmentOrFlaw(number) else { continue }
      guard now >= segment.superblock.createdNanoseconds + coldNanoseconds else { continue }
      recompressed.insert(number)
      guard let frames = try plan(number) else { continue }
      guard try recompress(frames, isCancelled) else {
        // The rest of it another time.
        recompressed.remove(number)
        return false
      }
      return true
    }
    return false
  }

  /// False when something else came first.
  private func recompress(_ frames: [Planned], _ isCancelled: () -> Bool) throws(JournalError) -> Bool {
    let sorted = frames.filter { !$0.references.isEmpty && $0.header.level < Self.coldLevel }.sorted {
      ($0.header.layer, $0.liveExtents[0].range.start) < ($1.header.layer, $1.liveExtents[0].range.start)
    }
    let most = min(Self.groupBytesMax, max(mover.segmentByteCountMax / 4, AlignedBuffer.alignment))
    var group: [Relocation] = []
    var join = Join()
    var isWhole = true
    for frame in sorted {
      if shouldStop || isBusy || isCancelled() {
        isWhole = false
        break
      }
      let count = frame.liveRuns.reduce(0) { $0 + UInt64($1.count) }
      if !join.takes(frame, count) {
        try add(join, to: &group, most)
        join = Join()
      }
      join.frames.append(frame)
      join.sectors += count
      join.storedBytes += frame.header.itemByteCount
    }
    try add(join, to: &group, most)
    if !group.isEmpty { try install(&group) }
    return isWhole
  }

  private func add(_ join: Join, to group: inout [Relocation], _ most: Int) throws(JournalError) {
    guard !join.frames.isEmpty else { return }
    var count = 0
    for frame in join.frames {
      let segment = try store.segment(frame.address.segment)
      let item = try segment.read(at: frame.address.offset, byteCount: frame.header.itemByteCount)
      let seed = segment.salt &+ frame.address.offset
      guard FrameHeader(item.bytes, seed: seed) == frame.header, frame.header.verifies(item.bytes, seed: seed)
      else { return }
      let stored = item.bytes.extracting(frame.header.byteCount..<frame.header.itemByteCount)
      guard press.gather(frame.liveRuns, of: frame.header, stored, behind: &count) else { return }
    }
    let extents = join.frames.flatMap(\.liveExtents)
    guard extents.count <= 512, let pressed = press.pressGathered(byteCount: count, level: Self.coldLevel)
    else {
      return
    }
    let size = FrameHeader.byteCount(extents: extents.count) + pressed.byteCount
    guard size + size / 30 < join.storedBytes else { return }
    if !group.isEmpty, mover.pendingByteCount + size > most { try install(&group) }
    do throws(FileError) {
      if group.isEmpty { try mover.begin(byteCount: max(most, size + AlignedBuffer.alignment)) }
    } catch {
      throw failure(error)
    }
    let buffer = pressed.buffer
    let to = mover.add(
      codec: pressed.codec, level: pressed.level, layer: join.frames[0].header.layer, extents: extents,
      stored: buffer.bytes.extracting(0..<pressed.byteCount))
    var position: UInt32 = 0
    for frame in join.frames {
      var runs: [(old: Range<UInt32>, new: UInt32)] = []
      for run in frame.liveRuns {
        runs.append((run, position))
        position += UInt32(run.count)
      }
      group.append(
        Relocation(
          from: frame.address, header: frame.header, to: to, runs: runs, references: frame.references))
    }
    note { $0.recompressedFrames += UInt64(join.frames.count) }
  }
}

extension Upkeep.Planned {
  /// The extents of what is live of the frame, in order.
  var liveExtents: [FrameExtent] { header.extents(of: liveRuns) }
}
