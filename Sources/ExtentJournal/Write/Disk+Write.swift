package import Bytes
internal import Threads

extension Disk {
  /// Room for a write of `range`, which lies in the disk. Blocks while the spool is full.
  package func reserve(_ range: ByteRange) throws(JournalError) -> WriteSlot {
    try WriteSlot(self, range)
  }

  /// Makes `range` read as zeroes. On a snapshot disk only what had not arrived changes; data there taints it.
  package func writeZeroes(_ range: ByteRange, mayTrim: Bool, durable: Bool) throws(JournalError) -> Arrivals
  {
    var reads: [ParkedRead] = []
    let inner = range.enclosedSectors
    // The edges of a range that ends inside sectors are ordinary writes of zeroes.
    for edge in edges(of: range, around: inner) {
      let slot = try reserve(edge)
      // SAFETY: the memory is the slot's payload, ours until commit.
      unsafe slot.memory.initializeMemory(as: UInt8.self, repeating: 0)
      reads += try slot.commit(durable: false).reads
    }
    if !inner.isEmpty { reads += try zero(inner, mayTrim ? .trim : .zero) }
    if durable { try journal.flush() }
    return Arrivals(reads: reads)
  }

  /// Gives `range` back: whole sectors inside it read as zeroes. A snapshot disk ignores it.
  package func trim(_ range: ByteRange, durable: Bool) throws(JournalError) -> Arrivals {
    let inner = range.enclosedSectors
    let reads = mode == .snapshot || inner.isEmpty ? [] : try zero(inner, .trim)
    if durable { try journal.flush() }
    return Arrivals(reads: reads)
  }

  private func edges(of range: ByteRange, around inner: SectorRange) -> [ByteRange] {
    if inner.isEmpty { return range.isEmpty ? [] : [range] }
    return [
      ByteRange(start: range.start, end: inner.bytes.start),
      ByteRange(start: inner.bytes.end, end: range.end),
    ].filter { !$0.isEmpty }
  }

  private func zero(_ range: SectorRange, _ kind: RecordKind) throws(JournalError) -> [ParkedRead] {
    return try journal.regionLocks.withLocks(layer.key, range) { () throws(JournalError) in
      guard mode == .snapshot else { return try commitZero(layer, range, kind) }
      let (known, missing) = try arrived(layer, range)
      for piece in known where try !readsAsZero(piece) {
        try journal.taint(layer, Self.contradiction(piece))
        return []
      }
      var reads: [ParkedRead] = []
      for piece in missing { reads += try commitZero(layer, piece, kind) }
      return reads
    }
  }

  private func commitZero(_ layer: Layer, _ range: SectorRange, _ kind: RecordKind) throws(JournalError)
    -> [ParkedRead]
  {
    let slot = try journal.ring.reserve(kind, layer.key, range, payloadByteCount: 0)
    do throws(JournalError) {
      return try journal.ledger.commit(slot, of: journal.ring.file, kind, layer.key, range)
    } catch {
      journal.ring.abandon(slot)
      throw error
    }
  }

  private func readsAsZero(_ range: SectorRange) throws(JournalError) -> Bool {
    let buffer = AlignedBuffer(byteCount: 1 << 20)
    var start = range.start
    while start < range.end {
      let part = SectorRange(
        start: start, end: min(range.end, start + UInt64(buffer.byteCount) / Sector.byteCount))
      var all = buffer.mutableBytes
      var target = all._mutatingExtracting(0..<Int(part.byteCount))
      try readStored(part.bytes, into: &target)
      guard target.bytes.isAllZero else { return false }
      start = part.end
    }
    return true
  }

  /// Why a repeated write that differs breaks a snapshot.
  static func contradiction(_ range: SectorRange) -> String {
    "a second write to bytes \(range.bytes.start) to \(range.bytes.end) differs from the first: a mirror job, or a second job on one export"
  }
}
