internal import Bytes
internal import Threads

// How a device disk is sealed while it is written: what was written so far becomes a checkpoint, and the next generation
// takes what comes.
//
//   open   The next generation begins: it stands on the one that is sealed, all of it falls to that, and its bitmap is
//          whole. The three records are committed in one hold of the commit lock, with neighbouring sequences. That is
//          the moment: what was committed before it is in the checkpoint, what is committed later is not.
//   sum    The checkpoint, which nothing changes any more, is flushed, read back and summed up.
//   seal   One record with the name and the sums, durable on return.
//
// Who writes waits for none of this. A write that was reserved before the moment and is committed after it belongs to the
// next generation: it is compared once more with what that one holds, edges included (WriteSlot.settle), and its record in
// the ring, which names the old one, is understood as the new one's (Ledger.recover).
//
// A crash leaves a prefix of these records. The open generation gets what it lacks before anybody is served
// (`finishCheckpoints`). A checkpoint without a seal was promised to nobody: it is ended as `unsealed` and hidden. What it
// holds is the next one's, too, and so it is dropped into that one when that is closed, with the next seal. A seal that
// fails for want of space or for a damaged frame does the same.

extension Disk {
  /// Seals what was written so far as `givenName`. The caller has the disk's generation turn.
  func sealCheckpointInTurn(_ givenName: String?) throws(JournalError) {
    let closing = layer
    let state = journal.ledger.lock.withLock { closing.state }
    if state.seal != nil {
      guard givenName == nil || givenName == state.name else {
        throw JournalError(.usage, "the generation is sealed as \(state.name), not \(givenName ?? "")")
      }
      return
    }
    guard let givenName else {
      throw JournalError(.usage, "a checkpoint of disk \(name) has no name; its seal needs one")
    }
    try journal.requireFreeName(givenName, of: closing.key.disk, disk: name)
    try requireSealable(closing)
    try journal.dropUnsealedInTurn(self)
    let next = try openNext(on: closing)
    journal.ledger.hooks.reach(.checkpointOpened)
    do throws(JournalError) {
      try bound(to: closing).sealClosed(as: givenName)
    } catch {
      bound(to: closing).endUnsealed()
      throw error
    }
    journal.ledger.hooks.reach(.generationSealed)
    journal.log(
      .info, "sealed checkpoint \(givenName) of disk \(name); generation \(next.number) takes the writes")
    try journal.retainInTurn(self)
    journal.tidyInTurn(self, sealed: closing)
  }

  private func requireSealable(_ layer: Layer) throws(JournalError) {
    try journal.requireNoLoss()
    if let refusal = journal.ledger.lock.withLock({ layer.refusal(of: .seal, []) }) { throw refusal }
    guard journal.ledger.lock.withLock({ layer.successor == nil }) else {
      throw JournalError(.usage, "another generation of disk \(name) takes the writes; seal that one")
    }
    guard journal.ledger.lock.withLock({ layer.source }) == nil else {
      throw JournalError(
        .usage, "what has not arrived of disk \(name) is read from a source; a checkpoint would lack it")
    }
    let all = journal.layers(of: layer.key.disk).map(\.state)
    guard let state = all.first(where: { $0.key == layer.key }),
      Journal.depth(of: state, among: all) < Self.baseDepthMax
    else {
      throw JournalError(
        .failed,
        "\(Self.baseDepthMax) generations of disk \(name) stand on one another and cannot be merged; the log says why"
      )
    }
  }

  /// Begins the generation that takes the writes from the commit of its beginning on.
  private func openNext(on closing: Layer) throws(JournalError) -> GenerationID {
    let number = journal.ledger.lock.withLock {
      journal.ledger.layers.keys.filter { $0.disk == closing.key.disk }.map(\.generation.number).max() ?? 0
    }
    let next = LayerKey(disk: closing.key.disk, generation: GenerationID(number: number + 1))
    let whole = SectorRange(start: 0, count: byteCount / Sector.byteCount)
    let nothing = SectorRange(start: 0, end: 0)
    let body = BeginBody(kind: .checkpoint, base: closing.key.generation.number, name: "").encoded
    let slots = try journal.ring.reserve([
      SpoolRing.Claim(kind: .begin, layer: next, range: nothing, payloadByteCount: body.count),
      SpoolRing.Claim(kind: .base, layer: next, range: whole, payloadByteCount: 0),
      SpoolRing.Claim(kind: .bitmapWhole, layer: next, range: nothing, payloadByteCount: 0),
    ])
    // SAFETY: the slot is ours until it is committed.
    let memory = unsafe journal.ring.file.memory(slots[0].payloadPosition, byteCount: body.count)
    unsafe memory.copyBytes(from: body)
    let drafts = [
      RecordDraft(slot: slots[0], kind: .begin, layer: next, body: body),
      RecordDraft(slot: slots[1], kind: .base, layer: next, range: whole),
      RecordDraft(slot: slots[2], kind: .bitmapWhole, layer: next),
    ]
    do throws(JournalError) {
      for read in try journal.ledger.commit(drafts, of: journal.ring.file, closing: closing) {
        read.wake(.retry)
      }
    } catch {
      for slot in slots { journal.ring.abandon(slot) }
      throw error
    }
    return next.generation
  }

  /// Sums up and seals the generation, which takes no more writes.
  private func sealClosed(as sealName: String) throws(JournalError) {
    try journal.flush()
    let record = SealRecord(
      name: sealName, job: "", kind: layer.kind, base: namedBase, byteCount: byteCount,
      summary: try summary())
    journal.ledger.hooks.reach(.checkpointSummed)
    try journal.append(.seal, layer.key, body: record.encoded)
    if !journal.ledger.hooks.has(.sealNotFlushed) { try journal.flush() }
  }

  /// The name of the checkpoint before this one: unsealed ones between them have none.
  private var namedBase: String? {
    journal.ledger.lock.withLock {
      var next = layer.base
      while let key = next, let below = journal.ledger.layers[key] {
        if !below.state.name.isEmpty { return below.state.name }
        next = below.base
      }
      return nil
    }
  }

  /// The seal has failed. What cannot be recorded now the next start records.
  private func endUnsealed() {
    guard journal.ledger.lock.withLock({ layer.state.seal == nil }) else { return }
    do throws(JournalError) {
      try journal.append(.end, layer.key, body: Array(LayerState.unsealed.utf8))
    } catch {
      journal.log(.debug, "the end of \(journal.name(of: layer.key)) is not recorded: \(error.message)")
    }
  }
}

extension Journal {
  /// Gives open checkpoints what a crash kept from them, and ends those whose seal it cut off. Before anybody is served.
  func finishCheckpoints() throws(JournalError) {
    let disks = ledger.lock.withLock { ledger.disks }
    for (id, body) in disks where body.mode == .device {
      for (layer, state) in layers(of: id) where !state.isClosed {
        if ledger.lock.withLock({ layer.successor != nil }) {
          log(
            .warning, "the seal of a checkpoint of disk \(body.name) was cut off; seal it again to have one")
          try append(.end, layer.key, body: Array(LayerState.unsealed.utf8))
        } else if state.base != 0, !state.bitmapIsWhole, !ledger.hooks.has(.checkpointLeftOpen) {
          let whole = SectorRange(start: 0, count: body.byteCount / Sector.byteCount)
          for read in try Disk(self, body, layer).fillWithBase(whole) { read.wake(.retry) }
          try append(.bitmapWhole, layer.key)
        }
      }
    }
  }

  /// Drops the unsealed checkpoints that every one standing on them can take in. The caller has the disk's generation turn.
  func dropUnsealedInTurn(_ disk: Disk) throws(JournalError) {
    let all = layers(of: disk.layer.key.disk)
    var isChanged = false
    for (layer, state) in all where state.isUnsealed {
      let dependents = all.filter { $0.state.baseKey == layer.key && !$0.state.isDropped }
      guard dependents.allSatisfy(\.state.isClosed) else { continue }
      try dropInTurn(layer, disk.name)
      isChanged = true
    }
    if isChanged { try indexer.run() }
  }

  /// What follows a seal that is done: what goes wrong here the next seal tries again. The caller has the disk's
  /// generation turn.
  func tidyInTurn(_ disk: Disk, sealed layer: Layer) {
    do throws(JournalError) {
      try dropUnsealedInTurn(disk)
      let all = layers(of: layer.key.disk).map(\.state)
      guard let state = all.first(where: { $0.key == layer.key }) else { return }
      if Self.depth(of: state, among: all) >= Disk.baseDepthTarget { try flattenInTurn(layer) }
    } catch {
      log(.warning, "the checkpoints of disk \(disk.name) are not merged now: \(error.message)")
    }
  }
}
