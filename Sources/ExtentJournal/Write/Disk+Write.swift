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
    try requireOpen()
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
    try requireOpen()
    let inner = range.enclosedSectors
    let reads = mode == .snapshot || inner.isEmpty ? [] : try zero(inner, .trim)
    if durable { try journal.flush() }
    return Arrivals(reads: reads)
  }

  /// Marks the generation that is open as broken.
  func taint(_ reason: String) throws(JournalError) {
    while true {
      let layer = layer
      do throws(JournalError) { return try journal.taint(layer, reason) } catch {
        guard isFollowing, journal.ledger.lock.withLock({ layer.successor != nil }) else { throw error }
      }
    }
  }

  /// When a write that finds no room is dropped (nanoseconds of MonotonicClock): at once if the generation is broken
  /// already. Nil when it never is.
  var dropDeadline: UInt64? {
    guard journal.options.whenFull == .taint else { return nil }
    let isTainted = journal.ledger.lock.withLock { layer.taint != nil }
    return MonotonicClock.nanoseconds() + (isTainted ? 0 : journal.options.stallBudgetNanoseconds)
  }

  private func edges(of range: ByteRange, around inner: SectorRange) -> [ByteRange] {
    if inner.isEmpty { return range.isEmpty ? [] : [range] }
    return [
      ByteRange(start: range.start, end: inner.bytes.start),
      ByteRange(start: inner.bytes.end, end: range.end),
    ].filter { !$0.isEmpty }
  }

  /// Zeroes whole sectors: one record on a device disk; on a snapshot disk one for each run that had not arrived. As in
  /// WriteSlot, the ring's space is taken before the region locks.
  private func zero(_ range: SectorRange, _ kind: RecordKind) throws(JournalError) -> [ParkedRead] {
    var reads: [ParkedRead] = []
    var parts = [range]
    while let part = parts.popLast() {
      let slot = try journal.ring.reserve(kind, layer.key, part, payloadByteCount: 0)
      let outcome: ZeroOutcome
      do throws(JournalError) { outcome = try settleZero(slot, kind, part) } catch {
        journal.giveUp(slot)
        throw error
      }
      switch outcome {
      case .committed(let woken): reads += woken
      case .partlyKnown(let missing):
        journal.giveUp(slot)
        parts += missing
      case .contradicts(let piece):
        journal.giveUp(slot)
        try taint(Self.contradiction(piece, isOutside: isOutsideBitmap(piece)))
        return reads
      }
    }
    return reads
  }

  private enum ZeroOutcome {
    case committed([ParkedRead])
    /// Only these sectors were missing.
    case partlyKnown([SectorRange])
    /// Data had arrived in these.
    case contradicts(SectorRange)
  }

  /// Compares and commits one zeroing, in the layer that is open at that moment. After an error, and unless it is
  /// committed, the reservation is the caller's.
  private func settleZero(
    _ slot: SpoolSlot, _ kind: RecordKind, _ part: SectorRange
  ) throws(JournalError) -> ZeroOutcome {
    while true {
      let layer = layer
      let outcome = try journal.regionLocks.withLocks(layer.key, part) {
        () throws(JournalError) -> ZeroOutcome? in
        guard let settled = try settled(part, in: layer) else {
          return try commit(slot, kind, in: layer, part).map { .committed($0) }
        }
        for piece in settled.known where try !readsAsZero(piece, in: layer) { return .contradicts(piece) }
        return .partlyKnown(settled.missing)
      }
      if let outcome { return outcome }
    }
  }

  /// Commits what was compared with what `layer` holds; the caller holds its region locks. Nil when `layer` takes no more
  /// writes and the handle has gone on to the one that does: then it has to be compared once more.
  func commit(
    _ slot: SpoolSlot, _ kind: RecordKind, in layer: Layer, _ range: SectorRange, allZero: Bool = false
  ) throws(JournalError) -> [ParkedRead]? {
    journal.ledger.hooks.reach(.writeCompared)
    return try journal.ledger.commit(
      slot, of: journal.ring.file, kind, layer.key, range, allZero: allZero, following: isFollowing)
  }

  private func readsAsZero(_ range: SectorRange, in layer: Layer) throws(JournalError) -> Bool {
    let buffer = AlignedBuffer(byteCount: 1 << 20)
    var start = range.start
    while start < range.end {
      let part = SectorRange(
        start: start, end: min(range.end, start + UInt64(buffer.byteCount) / Sector.byteCount))
      var all = buffer.mutableBytes
      var target = all._mutatingExtracting(0..<Int(part.byteCount))
      try readStored(part.bytes, of: layer, into: &target)
      guard target.bytes.isAllZero else { return false }
      start = part.end
    }
    return true
  }

  /// Whether some of `range` is outside the bitmap.
  func isOutsideBitmap(_ range: SectorRange) throws(JournalError) -> Bool {
    let found = try plan(layer, range, through: .none)
    journal.epochs.leave(found.epoch)
    return found.pieces.contains { $0.source.fallsToBase }
  }

  /// Why a write that differs from what is there breaks a snapshot.
  static func contradiction(_ range: SectorRange, isOutside: Bool) -> String {
    guard !isOutside else {
      return
        "a write to bytes \(range.bytes.start) to \(range.bytes.end), outside the bitmap, differs from the base"
    }
    return
      "a second write to bytes \(range.bytes.start) to \(range.bytes.end) differs from the first: a mirror job, or a second job on one export"
  }
}
