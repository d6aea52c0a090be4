internal import Bytes
internal import Extents
internal import Threads

// Reads of what has not arrived, from the disk that the job protects.
//
// Invariant: source bytes are answered only if they are content of the moment. The order is the proof:
//
//   1. read the source       2. ask the job       3. look in the journal, and at the taint       4. answer
//
// The guest changes the source only after we acknowledged the job's write of the old bytes, and we acknowledge only what
// is committed. Had 1 seen a changed byte, its commit came before 1 ended, and 3 finds it: the journal wins, sector by
// sector, so torn reads do no harm. 3 looks with a plan made after 1 ended; an older one, or the reverse order, has a
// window into which commit, acknowledgement and guest write fit. A write that is acknowledged and dropped is told by the
// taint, set before its acknowledgement and read with the plan. All this holds while the job lives: 2 asks after 1 ended,
// and a job that lived at 2 lived all through 1, for one that has ended does not come back.
//
// It costs one question to the monitor for all reads that end while the one before it is under way (SourceJob).

extension Disk {
  /// Has `source` answer reads of what has not arrived in the open generation. A source of another size is `.usage`.
  package func attach(_ source: any LiveSource) throws(JournalError) {
    guard source.byteCount == byteCount else {
      throw JournalError(
        .usage,
        "the source of \(name) has \(source.byteCount) bytes and the disk has \(byteCount); they must be the same"
      )
    }
    journal.frames.limitCache(to: FrameReader.cacheBytesMax - SourceBlocks.byteCountMax)
    let ledger = journal.ledger
    let woken = ledger.lock.withLock { () -> [ParkedRead] in
      layer.source = SourceAttachment(source)
      return ledger.woken(layer.parked.takeAll())
    }
    for read in woken { read.wake(.retry) }
  }

  /// The state of the source has changed: reads that wait for it look again. From any thread.
  package func sourceChanged() {
    let ledger = journal.ledger
    let woken = ledger.lock.withLock { () -> [ParkedRead] in
      layer.source?.version += 1
      return ledger.woken(layer.parked.takeAll())
    }
    for read in woken { read.wake(.retry) }
  }

  /// Lets go of the source: what has not arrived is an error from now on, which says `reason`. Reads in the source's
  /// hands are its own to end.
  package func endSource(_ reason: String) {
    journal.ledger.lock.withLock { layer.source }?.end(sourceError(reason))
    sourceChanged()
  }

  /// Bytes of a read are settled this many at a time: what is held of the source meanwhile is bounded.
  private static var portionByteCount: UInt64 { SourceAttachment.windowBytesMax }

  /// Answers from what is kept of the source, if it has all that `found` lacks; leaves the epoch then.
  func readKept(
    _ found: Plan, _ range: ByteRange, into target: inout MutableRawSpan
  ) throws(JournalError) -> [ReadRun]? {
    guard let kept = journal.sourceBlocks.find(layer.key, found.absent) else { return nil }
    let runs = try copy(found, layer, range, absentIsData: true, into: &target)
    for (sectors, block) in kept {
      guard let part = sectors.bytes.intersection(range) else { continue }
      block.copy(part, to: &target, at: Int(part.start - range.start))
    }
    return runs
  }

  /// Answers from the journal and the source. Blocks. Nil when there is something to wait for instead.
  func readThrough(
    _ attachment: SourceAttachment, _ range: ByteRange, into target: inout MutableRawSpan, owner: UInt64
  ) throws(JournalError) -> [ReadRun]? {
    var runs: [ReadRun] = []
    var position = range.start
    while position < range.end {
      let end = min(range.end, (position / Self.portionByteCount + 1) * Self.portionByteCount)
      let part = ByteRange(start: position, end: end)
      var room = target._mutatingExtracting(Int(position - range.start)..<Int(end - range.start))
      guard let more = try readPortion(attachment, part, into: &room, owner) else { return nil }
      runs += more
      position = end
    }
    return runs
  }

  private func readPortion(
    _ attachment: SourceAttachment, _ part: ByteRange, into target: inout MutableRawSpan, _ owner: UInt64
  ) throws(JournalError) -> [ReadRun]? {
    let found = try plan(layer, part.coveringSectors)
    try refuseTainted(found)
    try refuseReleased(found)
    let absent = found.absent
    guard let first = absent.first, let last = absent.last else {
      return try copy(found, layer, part, into: &target)
    }
    if let runs = try readKept(found, part, into: &target) { return runs }
    journal.epochs.leave(found.epoch)
    guard try isReady(attachment) else { return nil }

    try attachment.enter()
    defer { attachment.leave() }
    let missing = ByteRange(start: first.bytes.start, end: last.bytes.end)
    let window = try unreleased(
      attachment.window(for: missing, of: byteCount, owner: owner), around: missing)
    let buffer = AlignedBuffer(byteCount: Int(window.count))
    try fetch(window, from: attachment, into: buffer)

    // The window is around what was missing; what had arrived of the part lies beside it.
    let whole = ByteRange(start: min(part.start, window.start), end: max(part.end, window.end))
    let settled = try plan(layer, whole.coveringSectors)
    if !journal.ledger.hooks.has(.taintNotChecked) { try refuseTainted(settled) }
    try refuseReleased(settled)
    let stillAbsent = absentAfterFetch(settled, before: absent, window.coveringSectors)
    keep(buffer.bytes, window, valid: stillAbsent)
    let runs = try copy(settled, layer, part, absentIsData: true, into: &target)
    for range in stillAbsent {
      guard let piece = range.bytes.intersection(part) else { continue }
      let start = Int(piece.start - window.start)
      target.copy(
        buffer.bytes.extracting(start..<start + Int(piece.count)), at: Int(piece.start - part.start))
    }
    return runs
  }

  /// What of `window` may be read: what was released near `missing`, and what lies behind that, is not fetched again.
  private func unreleased(_ window: ByteRange, around missing: ByteRange) throws(JournalError) -> ByteRange {
    guard window != missing else { return window }
    let found = try plan(layer, window.coveringSectors, through: .none)
    journal.epochs.leave(found.epoch)
    var result = window
    for piece in found.pieces where piece.source.isReleased {
      if piece.range.bytes.end <= missing.start {
        result.start = max(result.start, piece.range.bytes.end)
      } else if piece.range.bytes.start >= missing.end {
        result.end = min(result.end, piece.range.bytes.start)
      }
    }
    return result
  }

  /// Steps 1 and 2.
  private func fetch(
    _ window: ByteRange, from attachment: SourceAttachment, into buffer: AlignedBuffer
  ) throws(JournalError) {
    do throws(JournalError) {
      journal.ledger.hooks.reach(.sourceWanted)
      var target = buffer.mutableBytes
      try attachment.source.read(window, into: &target)
      journal.sourceCounters.sourceBytes.add(window.count)
      journal.ledger.hooks.reach(.sourceRead)
      switch try attachment.confirm() {
      case .alive: return
      case .awaited: throw sourceError("its job has not been seen")
      case .dead(let reason), .unknown(let reason): throw sourceError(reason)
      }
    } catch {
      // Who ends the source makes its reads fail: then that is the reason.
      _ = try attachment.state()
      journal.sourceCounters.sourceErrors.add()
      throw error
    }
  }

  /// Whether the source may be read now; false while its job is awaited.
  func isReady(_ attachment: SourceAttachment) throws(JournalError) -> Bool {
    switch try attachment.state() {
    case .awaited: return false
    case .alive, .unknown: return true
    case .dead(let reason):
      journal.sourceCounters.sourceErrors.add()
      throw sourceError(reason)
    }
  }

  private func sourceError(_ reason: String) -> JournalError {
    JournalError(.failed, "what has not arrived of \(name) cannot be had from its source: \(reason)")
  }

  /// What the journal lacks after the source was read: sectors of which the source's bytes are right.
  private func absentAfterFetch(
    _ settled: Plan, before: [SectorRange], _ window: SectorRange
  ) -> [SectorRange] {
    let hooks = journal.ledger.hooks
    if hooks.has(.lookBeforeSource) { return before }
    if hooks.has(.staleSnapshot) {
      // Memory as it is now, the index as it was: what went from the one to the other meanwhile is in neither.
      let gaps = journal.ledger.lock.withLock { journal.ledger.look(layer, window).gaps.ranges }
      return gaps.flatMap { gap in before.compactMap { $0.intersection(gap) } }
    }
    return settled.absent.compactMap { $0.intersection(window) }
  }

  private func keep(_ bytes: RawSpan, _ window: ByteRange, valid: [SectorRange]) {
    var start = window.start
    while start < window.end {
      let index = start / SourceBlock.byteCount
      let end = min(window.end, start + SourceBlock.byteCount)
      let sectors = ByteRange(start: start, end: end).coveringSectors
      let inside = valid.compactMap { $0.intersection(sectors) }
      if !inside.isEmpty {
        let content = bytes.extracting(Int(start - window.start)..<Int(end - window.start))
        journal.sourceBlocks.add(SourceBlock(index, content, valid: inside), layer.key, index)
      }
      start = end
    }
  }
}
