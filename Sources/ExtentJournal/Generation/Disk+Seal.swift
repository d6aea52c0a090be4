internal import Bytes
internal import Threads

// How a generation is sealed, in two steps, so that whoever runs the backup job can end it in between.
//
//   pre-seal   everything is flushed, everything has arrived, all of it is read back from the segments and summed up;
//              durable on return. Since each sector is taken once, nothing can change what was summed up.
//   seal       one record, durable on return. From its commit on no write gets in, and readers never wait.
//
// A crash between the two leaves a pre-sealed generation: a start asks whoever knows what became of the job.
//
// (A device disk goes on in its next generation: Disk+Checkpoint.swift.)

extension Disk {
  /// Sums up the generation and records that, durably, as the work of `job`. Everything must have arrived, as data, as
  /// zeroes or as falling to the base, or be released. Does nothing when it is pre-sealed or sealed already.
  ///
  /// Reads everything that the generation itself holds, which verifies it and takes its time; a shutdown cuts it short
  /// with `.closing`. A tainted generation throws.
  package func preSeal(job: String) throws(JournalError) {
    try journal.inGenerationTurn(of: layer.key.disk) { () throws(JournalError) in try preSealInTurn(job) }
  }

  /// Seals the generation, durably: it is whole and never changes. Pre-seals it first if that was not done. One without
  /// a name needs `givenName`, and one with a name has no other. Does nothing when it is sealed already.
  ///
  /// Of a device disk it seals what was acknowledged before some moment of the call, as a checkpoint that must get a new
  /// name; writing goes on meanwhile, in the next generation.
  package func seal(as givenName: String? = nil) throws(JournalError) {
    try journal.inGenerationTurn(of: layer.key.disk) { () throws(JournalError) in
      guard mode == .snapshot else { return try sealCheckpointInTurn(givenName) }
      let state = journal.ledger.lock.withLock { layer.state }
      if let givenName, !state.name.isEmpty, givenName != state.name {
        throw JournalError(
          .usage, "the open generation of disk \(name) is \(state.name), not \(givenName)")
      }
      if state.seal != nil { return }
      guard let sealName = state.name.isEmpty ? givenName : state.name else {
        throw JournalError(.usage, "the generation of disk \(name) has no name; a seal needs one")
      }
      if state.name.isEmpty { try journal.requireFreeName(sealName, of: layer.key.disk, disk: name) }
      try preSealInTurn("")
      guard let body = journal.ledger.lock.withLock({ layer.state.preSeal }), var record = SealRecord(body)
      else { throw JournalError(.damaged, "the pre-seal of \(journal.name(of: layer.key)) is no seal") }
      record.name = sealName
      try journal.append(.seal, layer.key, body: record.encoded)
      if !journal.ledger.hooks.has(.sealNotFlushed) { try journal.flush() }
      try journal.retainInTurn(self)
      journal.ledger.hooks.reach(.generationSealed)
    }
  }

  private func preSealInTurn(_ job: String) throws(JournalError) {
    let state = journal.ledger.lock.withLock { layer.state }
    if state.seal != nil { return }
    guard mode == .snapshot else {
      throw JournalError(.usage, "disk \(name) is a device disk; its checkpoints are sealed in one step")
    }
    if let refusal = journal.ledger.lock.withLock({ layer.refusal(of: .preSeal, []) }) { throw refusal }
    if state.preSeal != nil { return }
    guard job.utf8.count <= 4096 else { throw JournalError(.usage, "the name of the job is too long") }
    guard state.kind != .incremental || state.bitmapIsWhole else {
      throw JournalError(
        .failed, "the bitmap of \(journal.name(of: layer.key)) has not been recorded as a whole")
    }
    try journal.flush()
    let base = journal.ledger.lock.withLock {
      layer.base.flatMap { journal.ledger.layers[$0]?.state.name }
    }
    let record = SealRecord(
      name: state.name, job: job, kind: state.kind, base: base, byteCount: byteCount, summary: try summary())
    try journal.append(.preSeal, layer.key, body: record.encoded)
    try journal.flush()
    journal.ledger.hooks.reach(.generationPreSealed)
  }

  /// How much is looked up, and read, at once.
  private static let summarySectors: UInt64 = 8192

  /// The sum of everything that the generation itself holds. Throws when something has not arrived.
  func summary() throws(JournalError) -> SealSummary {
    let layer = layer
    var digest = SealDigest()
    let buffer = AlignedBuffer(byteCount: Int(Self.summarySectors * Sector.byteCount))
    var start: UInt64 = 0
    let end = byteCount / Sector.byteCount
    while start < end {
      if journal.ledger.lock.withLock({ journal.ledger.isClosing }) { throw .closing }
      let portion = SectorRange(start: start, end: min(end, start + Self.summarySectors))
      let found = try plan(layer, portion, through: .none)
      if let gap = found.pieces.first(where: { $0.source == .absent }) {
        journal.epochs.leave(found.epoch)
        throw JournalError(
          .failed,
          "bytes \(gap.range.bytes.start) to \(gap.range.bytes.end) of \(journal.name(of: layer.key)) have not arrived; it cannot be sealed"
        )
      }
      if found.pieces.allSatisfy({
        $0.source.isZero || $0.source.fallsToBase || $0.source.isReleased
      }) {
        journal.epochs.leave(found.epoch)
      } else {
        var all = buffer.mutableBytes
        var target = all._mutatingExtracting(0..<Int(portion.byteCount))
        _ = try copy(found, layer, portion.bytes, into: &target)
      }
      for piece in found.pieces {
        if piece.source.fallsToBase {
          digest.addBase(piece.range)
        } else if piece.source.isReleased {
          digest.addReleased(piece.range)
        } else if piece.source.isZero {
          digest.addZeroes(piece.range)
        } else {
          let from = Int((piece.range.start - start) * Sector.byteCount)
          digest.addData(piece.range, buffer.bytes.extracting(from..<from + Int(piece.range.byteCount)))
        }
      }
      start = portion.end
    }
    return digest.finish()
  }
}
