internal import BlockFile
internal import Bytes
internal import LMDB
internal import Threads

// Compaction: the live rest of a segment is copied to a segment of moved data, and the index is told (rule C). A frame of
// which seven eighths are live is copied as it is stored; of another only what is live, compressed again.
//
// What is live is looked up in one turn, copied outside of any, and put in its place in another, which compares. What
// was overwritten in between is then a dead copy, and nothing more. The segment goes when a later round finds it dead.

extension Upkeep {
  /// Most bytes of one group of moved frames.
  static let groupBytesMax = 4 << 20

  /// A frame that is to be moved.
  struct Planned {
    var header: FrameHeader
    var address: FrameAddress
    var references: [(layer: LayerKey, range: SectorRange, skip: UInt32)]

    /// The sectors of the frame that are referred to, in order, apart.
    var liveRuns: [Range<UInt32>] {
      var runs: [Range<UInt32>] = []
      for reference in references.sorted(by: { $0.skip < $1.skip }) {
        let run = reference.skip..<reference.skip + UInt32(reference.range.count)
        if let last = runs.last, run.lowerBound <= last.upperBound {
          runs[runs.count - 1] = last.lowerBound..<max(last.upperBound, run.upperBound)
        } else {
          runs.append(run)
        }
      }
      return runs
    }
  }

  /// Compacts the segment that is worth it most. False when none is.
  func compactOne() throws(JournalError) -> Bool {
    guard let victim = victim() else { return false }
    guard let frames = try plan(victim) else { return false }
    try moveFrames(frames)
    let left = try indexer.inTurn { (tables) throws(JournalError) in try liveSums(tables)[victim] }
    // What nobody could find a reference to stays where it is, until something changes.
    if let left = left ?? nil { exhausted[victim] = left }
    note { $0.compactedSegments += 1 }
    return true
  }

  /// The segment with the smallest live part of those of which less than half is live; of all, when the journal takes more
  /// than its share above what is live: a quarter while a stream comes in, whose writes cost more than space, else a twelfth.
  private func victim() -> UInt64? {
    let known = usage.values.filter { $0.allocatedBytes > 0 }
    let live = known.reduce(0) { $0 + $1.liveBytes }
    let allocated = known.reduce(0) { $0 + $1.allocatedBytes }
    let (share, slack): (UInt64, UInt64) =
      isBusy && !isShort ? (4, limits.slackBytes) : (12, limits.slackBytes / 4)
    let isOver = allocated > live + live / share + slack
    pauseShare = !isOver ? 12 : allocated > live + live / 2 + slack ? 1 : 4
    return usage.filter { number, usage in
      guard usage.liveBytes > 0, usage.allocatedBytes >= limits.compactedBytesMin,
        exhausted[number] != usage.sum
      else { return false }
      let kept = usage.keptBytes + limits.overheadBytes
      return kept + (isOver ? usage.keptBytes / share : usage.keptBytes) < usage.allocatedBytes
    }.min { a, b in
      // a.live / a.allocated < b.live / b.allocated
      let (left, right) = (
        a.value.liveBytes * b.value.allocatedBytes, b.value.liveBytes * a.value.allocatedBytes
      )
      return left == right ? a.key < b.key : left < right
    }?.key
  }

  /// The live frames of `segment` and who refers to them. Nil when the index is not to be believed, or the segment not to be
  /// read.
  func plan(_ segment: UInt64) throws(JournalError) -> [Planned]? {
    guard case .success(let opened) = try store.segmentOrFlaw(segment),
      let inventory = try SegmentInventory.read(opened)
    else {
      exhausted[segment] = usage[segment]?.sum
      return nil
    }
    return try indexer.inTurn { (tables) throws(JournalError) in
      do throws(LMDBError) {
        var live: [UInt64: LiveFrame] = [:]
        for frame in try tables.liveFrames(of: segment) { live[frame.address.offset] = frame }
        let layers = try tables.layers()
        let holdsPast = try tables.holdsPast() && !ledger.hooks.has(.pastFramesMoved)
        var planned: [Planned] = []
        for (header, offset) in inventory.frames {
          guard let frame = live[offset] else { continue }
          let found = try tables.references(
            to: frame.address, header, layers, sectors: UInt64(frame.sectors))
          // Of the rest nobody knows which sectors it is (rule 6).
          if holdsPast, found.reduce(0, { $0 + $1.range.count }) < UInt64(frame.sectors) { continue }
          planned.append(Planned(header: header, address: frame.address, references: found))
        }
        return planned
      } catch {
        throw JournalError(error)
      }
    } ?? nil
  }

  private func moveFrames(_ frames: [Planned]) throws(JournalError) {
    let most = min(Self.groupBytesMax, max(mover.segmentByteCountMax / 4, AlignedBuffer.alignment))
    var group: [Relocation] = []
    var begun = MonotonicClock.nanoseconds()
    for frame in frames where !frame.references.isEmpty {
      if shouldStop { break }
      let size = frame.header.itemByteCount.roundedUp(to: 16)
      if !group.isEmpty, mover.pendingByteCount + size > most {
        try install(&group)
        pauseForIngest(since: begun)
        begun = MonotonicClock.nanoseconds()
      }
      do throws(FileError) {
        if group.isEmpty { try mover.begin(byteCount: max(most, size + AlignedBuffer.alignment)) }
      } catch {
        throw failure(error)
      }
      if let relocation = try copy(frame) { group.append(relocation) }
      if group.isEmpty { mover.abandonGroup() }
    }
    if !group.isEmpty { try install(&group) }
  }

  /// Adds the copy of a frame to the group that is being made. Nil when it is damaged: it stays where it is, for whoever
  /// reads it to hear of.
  private func copy(_ frame: Planned) throws(JournalError) -> Relocation? {
    let (header, address) = (frame.header, frame.address)
    let segment = try store.segment(address.segment)
    let item = try segment.read(at: address.offset, byteCount: header.itemByteCount)
    guard FrameHeader(item.bytes, seed: segment.salt &+ address.offset) == header,
      header.verifies(item.bytes, seed: segment.salt &+ address.offset)
    else { return nil }
    let stored = item.bytes.extracting(header.byteCount..<header.itemByteCount)
    let sectors = UInt32(UInt64(header.rawByteCount) / Sector.byteCount)
    let live = frame.liveRuns
    let liveCount = live.reduce(0) { $0 + UInt32($1.count) }
    let isWhole = Self.copiesWhole(liveSectors: UInt64(liveCount), of: UInt64(sectors))
    guard !isWhole, !ledger.hooks.has(.pastFramesMoved) else {
      let to = mover.add(
        codec: header.codec, level: header.level, layer: header.layer, extents: header.extents, stored: stored
      )
      note { $0.movedFrames += 1 }
      return Relocation(
        from: address, header: header, to: to, runs: [(0..<sectors, 0)], references: frame.references)
    }
    guard let pressed = press.press(live, of: header, stored, level: Self.reencodeLevel) else { return nil }
    let buffer = pressed.buffer
    let to = mover.add(
      codec: pressed.codec, level: pressed.level, layer: header.layer, extents: header.extents(of: live),
      stored: buffer.bytes.extracting(0..<pressed.byteCount))
    note { $0.reencodedFrames += 1 }
    var runs: [(old: Range<UInt32>, new: UInt32)] = []
    var position: UInt32 = 0
    for run in live {
      runs.append((run, position))
      position += UInt32(run.count)
    }
    return Relocation(from: address, header: header, to: to, runs: runs, references: frame.references)
  }

  private static let reencodeLevel: Int32 = 3

  /// Whether a frame is copied as it is stored, with what is dead of it.
  static func copiesWhole(liveSectors: UInt64, of sectors: UInt64) -> Bool { liveSectors * 8 >= sectors * 7 }

  /// Writes the group, durably, and puts it in its place (rule C).
  func install(_ group: inout [Relocation]) throws(JournalError) {
    defer { group = [] }
    do throws(FileError) {
      try mover.finish()
      try mover.sync()
    } catch {
      throw failure(error)
    }
    ledger.hooks.reach(.copied)
    if ledger.hooks.has(.freedBeforeIndex) { try freeTooEarly(group) }
    let relocations = group
    let comparing = !ledger.hooks.has(.moveWithoutCompare)
    _ = try indexer.inTurn { (tables) throws(JournalError) in
      do throws(LMDBError) {
        try tables.relocate(relocations, comparing: comparing)
        pastIndexes.follow(relocations)
      } catch {
        throw JournalError(error)
      }
    }
    ledger.hooks.reach(.relocated)
  }

  /// The planted bug: what was copied goes at once.
  private func freeTooEarly(_ group: [Relocation]) throws(JournalError) {
    for relocation in group {
      let start = relocation.from.offset / 4096 * 4096
      let end: UInt64 = (relocation.from.offset + UInt64(relocation.from.kibibytes) * 1024).roundedUp(
        to: 4096)
      let file = try store.segment(relocation.from.segment).file
      do throws(FileError) {
        try file.punch(start..<end)
        try file.sync()
      } catch {
        throw JournalError(error)
      }
    }
  }
}

extension FrameHeader {
  /// The extents of the sectors `runs` of the frame, in order.
  func extents(of runs: [Range<UInt32>]) -> [FrameExtent] {
    var result: [FrameExtent] = []
    var first: UInt64 = 0
    for extent in extents {
      let end = first + extent.range.count
      for run in runs {
        let low = max(first, UInt64(run.lowerBound))
        let high = min(end, UInt64(run.upperBound))
        guard low < high else { continue }
        let start = extent.range.start + (low - first)
        result.append(
          FrameExtent(range: SectorRange(start: start, count: high - low), sequence: extent.sequence))
      }
      first = end
    }
    return result
  }
}
