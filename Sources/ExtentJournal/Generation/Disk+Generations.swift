package import Bytes
internal import Threads

// What a generation is told besides its data: its bitmap, and its end. (How it is sealed: Disk+Seal.swift.)

extension Disk {
  private var state: LayerState { journal.ledger.lock.withLock { layer.state } }

  /// The name of the generation; nil while it has none.
  package var generationName: String? {
    let name = state.name
    return name.isEmpty ? nil : name
  }

  /// Fixed when the generation was opened.
  package var generationKind: GenerationKind { layer.kind }

  /// The number of the generation within its disk, from 1, in the order of opening.
  package var generationNumber: UInt32 { layer.key.generation.number }

  /// What the owner of the generation knows it by; may be empty.
  package var tag: String { state.tag }

  /// Whether everything outside the bitmap has been recorded.
  package var bitmapIsWhole: Bool { state.bitmapIsWhole }

  /// Whether the generation is sealed: whole, unchanging and vouched for.
  package var isSealed: Bool { state.seal != nil }

  /// Whether the generation takes no more writes, since it is sealed or was ended.
  package var isClosed: Bool { state.isClosed }

  /// Whether the generation is pre-sealed and neither sealed nor ended.
  package var isPreSealed: Bool {
    let state = state
    return state.preSeal != nil && !state.isClosed
  }

  /// Why the generation was ended without a seal; nil when it was not.
  package var endReason: String? { state.end }

  /// Why the generation is broken; nil when it is not.
  package var taintReason: String? { state.taint }

  /// The seal, or the pre-seal while there is only that.
  package var sealRecord: SealRecord? {
    let state = state
    return (state.seal ?? state.preSeal).flatMap { SealRecord($0) }
  }

  /// Throws when the generation takes no writes any more.
  func requireOpen() throws(JournalError) {
    if let refusal = journal.ledger.lock.withLock({ layer.refusal(of: .data, []) }) { throw refusal }
  }

  /// Records that `ranges`, of whole sectors, are outside the bitmap: they fall to the base. What has arrived there stays.
  ///
  /// The same may be said again, after a crash for example. It is as durable as any write: after the next flush.
  package func fallToBase(_ ranges: [ByteRange]) throws(JournalError) {
    let state = state
    guard state.kind == .incremental else {
      throw JournalError(.usage, "generation \(state.title) of \(name) has no base to fall to")
    }
    for range in ranges {
      guard range.isSectorAligned, range.end <= byteCount else {
        throw JournalError(
          .usage, "bytes \(range.start) to \(range.end) are no whole sectors of disk \(name)")
      }
    }
    try requireOpen()
    for range in ranges {
      var start = range.start
      while start < range.end {
        let part = ByteRange(start: start, end: min(range.end, start + Self.baseRecordBytesMax))
        for read in try fillWithBase(part.coveringSectors) { read.wake(.retry) }
        start = part.end
      }
    }
  }

  /// Most bytes of a base record, so that writers to the same regions do not wait long. (Neighbours become one.)
  private static let baseRecordBytesMax: UInt64 = 1 << 30

  /// One record for each run of `range` that had not arrived. As in WriteSlot, the ring's space is taken before the
  /// region locks.
  func fillWithBase(_ range: SectorRange) throws(JournalError) -> [ParkedRead] {
    var reads: [ParkedRead] = []
    var parts = [range]
    while let part = parts.popLast() {
      let slot = try journal.ring.reserve(.base, layer.key, part, payloadByteCount: 0)
      var isCommitted = false
      do throws(JournalError) {
        try journal.regionLocks.withLocks(layer.key, part) { () throws(JournalError) in
          let (known, missing) = try arrived(layer, part)
          if known.isEmpty || journal.ledger.hooks.has(.baseOverArrived) {
            reads += try journal.ledger.commit(slot, of: journal.ring.file, .base, layer.key, part)
            isCommitted = true
          } else {
            parts += missing
          }
        }
      } catch {
        journal.giveUp(slot)
        throw error
      }
      if !isCommitted { journal.giveUp(slot) }
    }
    return reads
  }

  /// Records that everything outside the bitmap has been recorded. It is as durable as any write: after the next flush.
  package func finishBitmap() throws(JournalError) {
    guard layer.kind == .incremental else {
      throw JournalError(.usage, "the generation of \(name) has no bitmap")
    }
    guard !bitmapIsWhole else { return }
    try journal.append(.bitmapWhole, layer.key)
  }

  /// Closes the generation without a seal, durably: what has arrived can be read, reads of what has not fail with
  /// `reason`, and writes get `.notPermitted`. Does nothing when it was ended before; a sealed one is `.usage`, and so is one
  /// of a device disk.
  package func end(_ reason: String) throws(JournalError) {
    guard mode == .snapshot else {
      throw JournalError(
        .usage, "disk \(name) is a device disk; its open generation is sealed and not ended")
    }
    try journal.inGenerationTurn(of: layer.key.disk) { () throws(JournalError) in
      let state = state
      if state.end != nil { return }
      guard state.seal == nil else {
        throw JournalError(.usage, "generation \(state.title) of \(name) is sealed and cannot be ended")
      }
      try journal.append(.end, layer.key, body: Array(reason.utf8.prefix(4096)))
      try journal.flush()
    }
  }
}
