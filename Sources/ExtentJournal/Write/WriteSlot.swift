internal import Bytes
internal import Threads

/// Room for the payload of one write. Exactly one of `commit` and `abandon` ends it.
///
/// Small writes lie in the spool already: the payload is received where it stays. Larger ones than a reservation may
/// be are received in memory of their own, from a bounded budget, and committed piece by piece.
@safe
package final class WriteSlot {
  private let disk: Disk
  private let layer: Layer
  private let range: ByteRange
  private let sectors: SectorRange
  private let home: Home

  private enum Home {
    case ring(SpoolSlot)
    case memory(AlignedBuffer)
  }

  init(_ disk: Disk, _ range: ByteRange) throws(JournalError) {
    self.disk = disk
    self.range = range
    layer = disk.layer
    sectors = range.coveringSectors
    let journal = disk.journal
    let byteCount = Int(sectors.byteCount)
    if byteCount <= journal.ring.payloadBytesMax {
      home = .ring(try journal.ring.reserve(.data, layer.key, sectors, payloadByteCount: byteCount))
    } else {
      journal.privateBuffers.take(byteCount)
      home = .memory(AlignedBuffer(byteCount: byteCount))
    }
  }

  /// Where the payload goes: exactly as many bytes as the range has. Valid until `commit` or `abandon`.
  @unsafe package var memory: UnsafeMutableRawBufferPointer {
    let edge = Int(range.start - sectors.start * Sector.byteCount)
    return unsafe UnsafeMutableRawBufferPointer(rebasing: all[edge..<edge + Int(range.count)])
  }

  /// The whole sectors around the payload.
  private var all: UnsafeMutableRawBufferPointer {
    switch home {
    case .ring(let slot):
      // SAFETY: the reservation is ours until it is committed, abandoned or retired.
      unsafe disk.journal.ring.file.memory(slot.payloadPosition, byteCount: slot.payloadByteCount)
    case .memory(let buffer): unsafe buffer.raw
    }
  }

  /// The payload never came: nothing happened.
  package func abandon() {
    switch home {
    case .ring(let slot): disk.journal.ring.abandon(slot)
    case .memory(let buffer): disk.journal.privateBuffers.giveBack(buffer.byteCount)
    }
  }

  /// The payload is there: makes the write true. With `durable` it returns only when it survives power loss.
  ///
  /// A snapshot disk takes each sector once: bytes that agree with what is there are a retry, bytes that differ taint
  /// the generation; either way the write is acknowledged and changes nothing that had arrived.
  package func commit(durable: Bool) throws(JournalError) -> Arrivals {
    let arrivals = try disk.journal.regionLocks.withLocks(layer.key, sectors) { () throws(JournalError) in
      do throws(JournalError) {
        try fillEdges()
        return try disk.mode == .snapshot ? commitOnce() : commitWhole()
      } catch {
        // A failed commit left the reservation to us; what pieces got through were retries or will be repeated.
        if !isSpent { abandon() }
        throw error
      }
    }
    if durable { try disk.journal.flush() }
    return arrivals
  }

  private var isSpent = false

  /// Completes the first and last sector of a write that ends inside them; what was never written counts as zero.
  private func fillEdges() throws(JournalError) {
    guard !range.isSectorAligned else { return }
    let whole = sectors.bytes
    for edge in [
      ByteRange(start: whole.start, end: range.start), ByteRange(start: range.end, end: whole.end),
    ]
    where !edge.isEmpty {
      let start = Int(edge.start - whole.start)
      // SAFETY: the edge lies in the sectors around the payload, whose memory `all` is.
      var target = unsafe MutableRawSpan(
        _unsafeBytes: UnsafeMutableRawBufferPointer(rebasing: all[start..<start + Int(edge.count)]))
      try disk.readStored(edge, into: &target)
    }
  }

  private func commitWhole() throws(JournalError) -> Arrivals {
    switch home {
    case .ring(let slot):
      let reads = try disk.journal.ledger.commit(
        slot, of: disk.journal.ring.file, .data, layer.key, sectors,
        allZero: unsafe RawSpan(_unsafeBytes: UnsafeRawBufferPointer(all)).isAllZero)
      isSpent = true
      return Arrivals(reads: reads)
    case .memory:
      return try commitPieces([sectors])
    }
  }

  /// Snapshot mode: only what had not arrived is added, and only if the rest agrees.
  private func commitOnce() throws(JournalError) -> Arrivals {
    let (known, missing) = try disk.arrived(layer, sectors)
    if known.isEmpty { return try commitWhole() }
    for piece in known {
      let buffer = AlignedBuffer(byteCount: Int(piece.byteCount))
      var stored = buffer.mutableBytes
      try disk.readStored(piece.bytes, into: &stored)
      let start = Int((piece.start - sectors.start) * Sector.byteCount)
      // SAFETY: the piece lies in the sectors of the write, whose memory `all` is.
      let given = unsafe RawSpan(
        _unsafeBytes: UnsafeRawBufferPointer(rebasing: all[start..<start + Int(piece.byteCount)]))
      guard given.equals(stored.bytes) else {
        try disk.journal.taint(layer, Disk.contradiction(piece))
        abandon()
        isSpent = true
        return Arrivals(reads: [])
      }
    }
    return try commitPieces(missing)
  }

  /// Commits parts of the payload as records of their own. The reservation is given back first: it must not hold the
  /// room that the pieces wait for.
  private func commitPieces(_ pieces: [SectorRange]) throws(JournalError) -> Arrivals {
    let journal = disk.journal
    let source = takeMemory()
    isSpent = true
    defer { journal.privateBuffers.giveBack(source.byteCount) }
    var reads: [ParkedRead] = []
    let sectorsMax = UInt64(journal.ring.payloadBytesMax) / Sector.byteCount
    for piece in pieces {
      var start = piece.start
      while start < piece.end {
        let part = SectorRange(start: start, end: min(piece.end, start + sectorsMax))
        let at = Int((start - sectors.start) * Sector.byteCount)
        let payload = source.bytes.extracting(at..<at + Int(part.byteCount))
        reads += try journal.commitData(layer, part, payload)
        start = part.end
      }
    }
    return Arrivals(reads: reads)
  }

  /// The payload in memory of its own; a reservation is given back.
  private func takeMemory() -> AlignedBuffer {
    if case .memory(let buffer) = home { return buffer }
    let byteCount = Int(sectors.byteCount)
    disk.journal.privateBuffers.take(byteCount)
    let buffer = AlignedBuffer(byteCount: byteCount)
    // SAFETY: both have the size of the sectors around the payload.
    unsafe buffer.raw.copyMemory(from: UnsafeRawBufferPointer(all))
    abandon()
    return buffer
  }
}

extension Journal {
  /// Commits a copy of `payload` as one record.
  fileprivate func commitData(
    _ layer: Layer, _ range: SectorRange, _ payload: RawSpan
  ) throws(JournalError) -> [ParkedRead] {
    let allZero = payload.isAllZero
    let slot = try ring.reserve(.data, layer.key, range, payloadByteCount: payload.byteCount)
    // SAFETY: the slot is ours until it is committed.
    unsafe payload.withUnsafeBytes {
      unsafe ring.file.memory(slot.payloadPosition, byteCount: payload.byteCount).copyMemory(from: $0)
    }
    do throws(JournalError) {
      return try ledger.commit(slot, of: ring.file, .data, layer.key, range, allZero: allZero)
    } catch {
      ring.abandon(slot)
      throw error
    }
  }
}
