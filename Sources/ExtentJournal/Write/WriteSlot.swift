internal import Bytes
internal import Threads

// How a payload becomes a record, whatever the mode of the disk.
//
// Ring space is always taken before region locks, never inside them: a reservation waits until the ring's tail moves,
// the tail waits for every reservation before to be committed, and a commit waits for its region locks. Held the other
// way round, a full ring would be a deadlock.

/// Room for the payload of one write. Exactly one of `commit` and `abandon` ends it.
///
/// Small writes lie in the spool already: the payload is received where it stays. Larger ones than a reservation may
/// be are received in memory of their own, from a bounded budget, and committed piece by piece, each piece atomic. So
/// are those whose sender stalls while others wait for the ring.
@safe
package final class WriteSlot {
  private let disk: Disk
  private let range: ByteRange
  private let sectors: SectorRange
  private var home: Home
  /// What was admitted for the write and is not yet any record's.
  private var admittedByteCount = 0

  private var journal: Journal { disk.journal }

  private enum Home {
    case ring(SpoolSlot)
    case memory(AlignedBuffer, PrivateMemory.Share)
    /// The payload is received and forgotten: there is no space, and its generation is tainted for it.
    case dropped(AlignedBuffer, PrivateMemory.Share)
  }

  init(_ disk: Disk, _ range: ByteRange) throws(JournalError) {
    self.disk = disk
    self.range = range
    sectors = range.coveringSectors
    try disk.requireOpen()
    let byteCount = Int(sectors.byteCount)
    do throws(JournalError) {
      home = try Self.room(disk, sectors)
    } catch {
      guard error.kind == .noSpace, disk.journal.options.whenFull == .taint else { throw error }
      try disk.taint("a write was dropped: \(error.message)")
      home = .dropped(AlignedBuffer(byteCount: byteCount), try Self.takeMemory(disk.journal, byteCount))
    }
    if case .memory = home { admittedByteCount = SpaceAccount.storedBytesMax(sectors) }
  }

  private static func room(_ disk: Disk, _ sectors: SectorRange) throws(JournalError) -> Home {
    let journal = disk.journal
    let byteCount = Int(sectors.byteCount)
    let stored = SpaceAccount.storedBytesMax(sectors)
    let deadline = disk.dropDeadline
    try journal.admission.admit(stored, until: deadline)
    do throws(JournalError) {
      guard byteCount <= journal.ring.payloadBytesMax else {
        return .memory(AlignedBuffer(byteCount: byteCount), try takeMemory(journal, byteCount))
      }
      var slot = try journal.ring.reserve(
        .data, disk.layer.key, sectors, payloadByteCount: byteCount, until: deadline)
      slot.admittedByteCount = stored
      return .ring(slot)
    } catch {
      journal.admission.release(stored)
      throw error
    }
  }

  private static func takeMemory(
    _ journal: Journal, _ byteCount: Int, lateSince: UInt64? = nil
  ) throws(JournalError) -> PrivateMemory.Share {
    guard let share = journal.privateMemory.take(byteCount, lateSince: lateSince) else { throw stalled }
    return share
  }

  private static let stalled = JournalError(
    .closing,
    "its sender has stalled in the middle of a payload, longest of all, while others wait for the memory")

  /// Where the payload goes: exactly as many bytes as the range has. Valid until `commit` or `abandon`, and until
  /// `payloadIsLate`, after which it may be elsewhere.
  @unsafe package var memory: UnsafeMutableRawBufferPointer {
    let all =
      switch home {
      case .ring(let slot): unsafe payload(of: slot)
      case .memory(let buffer, _), .dropped(let buffer, _): unsafe buffer.raw
      }
    return unsafe UnsafeMutableRawBufferPointer(rebasing: all[edge..<edge + Int(range.count)])
  }

  /// Bytes of the first sector before the range.
  private var edge: Int { Int(range.start - sectors.start * Sector.byteCount) }

  private func payload(of slot: SpoolSlot) -> UnsafeMutableRawBufferPointer {
    // SAFETY: the reservation is ours until it is committed or abandoned.
    unsafe journal.ring.file.memory(slot.payloadPosition, byteCount: slot.payloadByteCount)
  }

  /// The payload does not come, or only drips: `received` bytes of it are there, and it is late since `since`
  /// (nanoseconds of MonotonicClock). Call it again while that is so.
  ///
  /// If that keeps the ring's tail from moving and others wait for it, what has come is moved to memory of its own.
  /// Throws `.closing`, for nobody to be told, when the sender has to go.
  package func payloadIsLate(received: Int, since: UInt64) throws(JournalError) {
    switch home {
    case .ring(let slot):
      guard journal.ring.isHeldUp(by: slot) else { return }
      let share = try Self.takeMemory(journal, slot.payloadByteCount, lateSince: since)
      let buffer = AlignedBuffer(byteCount: slot.payloadByteCount)
      let arrived = edge..<edge + received
      unsafe UnsafeMutableRawBufferPointer(rebasing: buffer.raw[arrived])
        .copyMemory(from: UnsafeRawBufferPointer(rebasing: payload(of: slot)[arrived]))
      admittedByteCount = slot.admittedByteCount
      journal.ring.abandon(slot)
      home = .memory(buffer, share)
    case .memory(_, let share), .dropped(_, let share):
      if journal.privateMemory.isLate(share, since: since) { throw Self.stalled }
    }
  }

  /// The payload never came: nothing happened.
  package func abandon() {
    switch home {
    case .ring(let slot): journal.giveUp(slot)
    case .memory(_, let share), .dropped(_, let share): journal.privateMemory.giveBack(share)
    }
    journal.admission.release(admittedByteCount)
  }

  /// The payload is there: makes the write true. With `durable` it returns only when it survives power loss.
  ///
  /// A snapshot disk takes each sector once: bytes that agree with what is there are a retry, bytes that differ taint
  /// the generation; either way the write is acknowledged and changes nothing that had arrived. What was released is dropped. After an error parts
  /// of it may be true, as after any failed write.
  package func commit(durable: Bool) throws(JournalError) -> Arrivals {
    var reads: [ParkedRead] = []
    switch home {
    case .ring(let slot):
      switch try settle(slot, sectors) {
      case .committed(let woken): reads = woken
      case .known, .contradicts: break
      case .partlyKnown(let missing, let copy): reads = try commitPieces(missing, of: copy)
      }
    case .memory(let buffer, let share):
      journal.privateMemory.isWhole(share)
      defer {
        journal.privateMemory.giveBack(share)
        journal.admission.release(admittedByteCount)
      }
      reads = try commitPieces([sectors], of: buffer)
    case .dropped(_, let share):
      journal.privateMemory.giveBack(share)
    }
    if durable { try journal.flush() }
    return Arrivals(reads: reads)
  }

  /// Room in the ring for a piece of the write; what was admitted for the whole is the piece's as far as it goes.
  private func reservePiece(_ part: SectorRange) throws(JournalError) -> SpoolSlot {
    let stored = SpaceAccount.storedBytesMax(part)
    let share = min(stored, admittedByteCount)
    admittedByteCount -= share
    journal.admission.add(stored - share)
    do throws(JournalError) {
      var slot = try journal.ring.reserve(
        .data, disk.layer.key, part, payloadByteCount: Int(part.byteCount))
      slot.admittedByteCount = stored
      return slot
    } catch {
      journal.admission.release(stored)
      throw error
    }
  }

  /// What became of one reservation. It is committed or given back in every case, an error included.
  private enum Verdict {
    case committed([ParkedRead])
    /// All of it had arrived or was released, or it contradicted what had arrived.
    case known
    /// Only these sectors were missing; a copy of the whole payload, since the reservation is given back.
    case partlyKnown([SectorRange], AlignedBuffer)
    /// These sectors had arrived with other bytes. Nobody but `settle` sees it.
    case contradicts(SectorRange)
  }

  /// Compares and commits the payload of `part` that lies in `slot`, as one step, in the layer that is open at that moment.
  private func settle(_ slot: SpoolSlot, _ part: SectorRange) throws(JournalError) -> Verdict {
    var verdict: Verdict?
    do throws(JournalError) {
      repeat {
        let layer = disk.layer
        verdict = try journal.regionLocks.withLocks(layer.key, part) { () throws(JournalError) in
          try compareAndCommit(slot, part, in: layer)
        }
      } while verdict == nil
    } catch {
      journal.giveUp(slot)
      throw error
    }
    if case .committed = verdict { return verdict ?? .known }
    journal.giveUp(slot)
    guard case .contradicts(let piece) = verdict else { return verdict ?? .known }
    try disk.taint(Disk.contradiction(piece, isOutside: disk.isOutsideBitmap(piece)))
    return .known
  }

  /// The step of `settle` in one layer, whose region locks are held. Nil when it takes no more writes and another does.
  private func compareAndCommit(
    _ slot: SpoolSlot, _ part: SectorRange, in layer: Layer
  ) throws(JournalError) -> Verdict? {
    try fillEdges(of: part, in: slot, from: layer)
    guard let (known, missing) = try disk.settled(part, in: layer) else {
      let payload = unsafe RawSpan(_unsafeBytes: UnsafeRawBufferPointer(payload(of: slot)))
      return try disk.commit(slot, .data, in: layer, part, allZero: payload.isAllZero)
        .map { .committed($0) }
    }
    for piece in known where try !agrees(piece, slot, part, in: layer) { return .contradicts(piece) }
    guard !missing.isEmpty else { return .known }
    // At most one reservation's worth for each connection, and only while a retry is in pieces.
    let copy = AlignedBuffer(byteCount: slot.payloadByteCount)
    unsafe copy.raw.copyMemory(from: UnsafeRawBufferPointer(payload(of: slot)))
    return .partlyKnown(missing, copy)
  }

  /// Commits parts of the payload as records of their own; `source` holds the payload of `whole` (default: all of it).
  private func commitPieces(
    _ pieces: [SectorRange], of source: AlignedBuffer, from whole: SectorRange? = nil
  ) throws(JournalError) -> [ParkedRead] {
    let origin = (whole ?? sectors).start
    let sectorsMax = UInt64(journal.ring.payloadBytesMax) / Sector.byteCount
    var reads: [ParkedRead] = []
    for piece in pieces {
      var start = piece.start
      while start < piece.end {
        let part = SectorRange(start: start, end: min(piece.end, start + sectorsMax))
        let at = Int((start - origin) * Sector.byteCount)
        let slot = try reservePiece(part)
        unsafe payload(of: slot).copyMemory(
          from: UnsafeRawBufferPointer(rebasing: source.raw[at..<at + Int(part.byteCount)]))
        switch try settle(slot, part) {
        case .committed(let woken): reads += woken
        case .known, .contradicts: break
        case .partlyKnown(let missing, let copy): reads += try commitPieces(missing, of: copy, from: part)
        }
        start = part.end
      }
    }
    return reads
  }

  /// Completes the first and last sector of a write that ends inside them, if they lie in `part`; what was never
  /// written counts as zero.
  private func fillEdges(
    of part: SectorRange, in slot: SpoolSlot, from layer: Layer
  ) throws(JournalError) {
    guard !range.isSectorAligned else { return }
    let whole = sectors.bytes
    for edge in [
      ByteRange(start: whole.start, end: range.start), ByteRange(start: range.end, end: whole.end),
    ] {
      guard !edge.isEmpty, part.bytes.intersection(edge) == edge else { continue }
      let start = Int(edge.start - part.bytes.start)
      // SAFETY: the edge lies in the part, whose bytes the slot's payload is.
      var target = unsafe MutableRawSpan(
        _unsafeBytes: UnsafeMutableRawBufferPointer(
          rebasing: payload(of: slot)[start..<start + Int(edge.count)]))
      try disk.readStored(edge, of: layer, into: &target)
    }
  }

  /// Whether the stored bytes of `piece` are those that the slot holds for it.
  private func agrees(
    _ piece: SectorRange, _ slot: SpoolSlot, _ part: SectorRange, in layer: Layer
  ) throws(JournalError) -> Bool {
    let buffer = AlignedBuffer(byteCount: Int(piece.byteCount))
    var stored = buffer.mutableBytes
    try disk.readStored(piece.bytes, of: layer, into: &stored)
    let start = Int((piece.start - part.start) * Sector.byteCount)
    // SAFETY: the piece lies in the part, whose bytes the slot's payload is.
    let given = unsafe RawSpan(
      _unsafeBytes: UnsafeRawBufferPointer(
        rebasing: payload(of: slot)[start..<start + Int(piece.byteCount)]))
    return given.equals(stored.bytes)
  }
}
