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
/// be are received in memory of their own, from a bounded budget, and committed piece by piece, each piece atomic.
@safe
package final class WriteSlot {
  private let disk: Disk
  private let range: ByteRange
  private let sectors: SectorRange
  private let home: Home

  private var journal: Journal { disk.journal }
  private var layer: Layer { disk.layer }

  private enum Home {
    case ring(SpoolSlot)
    case memory(AlignedBuffer)
  }

  init(_ disk: Disk, _ range: ByteRange) throws(JournalError) {
    self.disk = disk
    self.range = range
    sectors = range.coveringSectors
    let journal = disk.journal
    let byteCount = Int(sectors.byteCount)
    if byteCount <= journal.ring.payloadBytesMax {
      home = .ring(
        try journal.ring.reserve(.data, disk.layer.key, sectors, payloadByteCount: byteCount))
    } else {
      journal.privateBuffers.take(byteCount)
      home = .memory(AlignedBuffer(byteCount: byteCount))
    }
  }

  /// Where the payload goes: exactly as many bytes as the range has. Valid until `commit` or `abandon`.
  @unsafe package var memory: UnsafeMutableRawBufferPointer {
    let edge = Int(range.start - sectors.start * Sector.byteCount)
    let all =
      switch home {
      case .ring(let slot): unsafe payload(of: slot)
      case .memory(let buffer): unsafe buffer.raw
      }
    return unsafe UnsafeMutableRawBufferPointer(rebasing: all[edge..<edge + Int(range.count)])
  }

  private func payload(of slot: SpoolSlot) -> UnsafeMutableRawBufferPointer {
    // SAFETY: the reservation is ours until it is committed or abandoned.
    unsafe journal.ring.file.memory(slot.payloadPosition, byteCount: slot.payloadByteCount)
  }

  /// The payload never came: nothing happened.
  package func abandon() {
    switch home {
    case .ring(let slot): journal.ring.abandon(slot)
    case .memory(let buffer): journal.privateBuffers.giveBack(buffer.byteCount)
    }
  }

  /// The payload is there: makes the write true. With `durable` it returns only when it survives power loss.
  ///
  /// A snapshot disk takes each sector once: bytes that agree with what is there are a retry, bytes that differ taint
  /// the generation; either way the write is acknowledged and changes nothing that had arrived. After an error parts
  /// of it may be true, as after any failed write.
  package func commit(durable: Bool) throws(JournalError) -> Arrivals {
    let reads: [ParkedRead]
    switch home {
    case .ring(let slot):
      switch try settle(slot, sectors) {
      case .committed(let woken): reads = woken
      case .known: reads = []
      case .partlyKnown(let missing, let copy): reads = try commitPieces(missing, of: copy)
      }
    case .memory(let buffer):
      defer { journal.privateBuffers.giveBack(buffer.byteCount) }
      reads = try commitPieces([sectors], of: buffer)
    }
    if durable { try journal.flush() }
    return Arrivals(reads: reads)
  }

  /// What became of one reservation. It is committed or given back in every case, an error included.
  private enum Verdict {
    case committed([ParkedRead])
    /// All of it had arrived, or contradicted what had.
    case known
    /// Only these sectors were missing; a copy of the whole payload, since the reservation is given back.
    case partlyKnown([SectorRange], AlignedBuffer)
  }

  /// Compares and commits the payload of `part` that lies in `slot`, as one step.
  private func settle(_ slot: SpoolSlot, _ part: SectorRange) throws(JournalError) -> Verdict {
    var contradiction: SectorRange?
    var verdict = Verdict.known
    do throws(JournalError) {
      try journal.regionLocks.withLocks(layer.key, part) { () throws(JournalError) in
        try fillEdges(of: part, in: slot)
        let (known, missing) = disk.mode == .snapshot ? try disk.arrived(layer, part) : ([], [part])
        for piece in known where try !agrees(piece, slot, part) {
          contradiction = piece
          return
        }
        if known.isEmpty {
          let payload = unsafe RawSpan(_unsafeBytes: UnsafeRawBufferPointer(payload(of: slot)))
          verdict = .committed(
            try journal.ledger.commit(
              slot, of: journal.ring.file, .data, layer.key, part, allZero: payload.isAllZero))
        } else if !missing.isEmpty {
          // At most one reservation's worth for each connection, and only while a retry is in pieces.
          let copy = AlignedBuffer(byteCount: slot.payloadByteCount)
          unsafe copy.raw.copyMemory(from: UnsafeRawBufferPointer(payload(of: slot)))
          verdict = .partlyKnown(missing, copy)
        }
      }
    } catch {
      journal.ring.abandon(slot)
      throw error
    }
    if case .committed = verdict { return verdict }
    journal.ring.abandon(slot)
    if let contradiction { try journal.taint(layer, Disk.contradiction(contradiction)) }
    return verdict
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
        let slot = try journal.ring.reserve(
          .data, layer.key, part, payloadByteCount: Int(part.byteCount))
        unsafe payload(of: slot).copyMemory(
          from: UnsafeRawBufferPointer(rebasing: source.raw[at..<at + Int(part.byteCount)]))
        switch try settle(slot, part) {
        case .committed(let woken): reads += woken
        case .known: break
        case .partlyKnown(let missing, let copy): reads += try commitPieces(missing, of: copy, from: part)
        }
        start = part.end
      }
    }
    return reads
  }

  /// Completes the first and last sector of a write that ends inside them, if they lie in `part`; what was never
  /// written counts as zero.
  private func fillEdges(of part: SectorRange, in slot: SpoolSlot) throws(JournalError) {
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
      try disk.readStored(edge, into: &target)
    }
  }

  /// Whether the stored bytes of `piece` are those that the slot holds for it.
  private func agrees(_ piece: SectorRange, _ slot: SpoolSlot, _ part: SectorRange) throws(JournalError)
    -> Bool
  {
    let buffer = AlignedBuffer(byteCount: Int(piece.byteCount))
    var stored = buffer.mutableBytes
    try disk.readStored(piece.bytes, into: &stored)
    let start = Int((piece.start - part.start) * Sector.byteCount)
    // SAFETY: the piece lies in the part, whose bytes the slot's payload is.
    let given = unsafe RawSpan(
      _unsafeBytes: UnsafeRawBufferPointer(
        rebasing: payload(of: slot)[start..<start + Int(piece.byteCount)]))
    return given.equals(stored.bytes)
  }
}
