internal import BlockFile
internal import Threads

extension Journal {
  /// Marks a generation as broken: the word in the ring first, so that it outlives this process, then the record.
  /// Adds no second record when it is broken already.
  ///
  /// A writer cannot break what is closed: it gets `.notPermitted`. What a recovery has lost breaks it `evenClosed`.
  func taint(_ layer: Layer, _ reason: String, evenClosed: Bool = false) throws(JournalError) {
    let (isFirst, woken) = try ledger.lock.withLock { () throws(JournalError) in
      if !evenClosed, let refusal = layer.refusal(of: .data, []) { throw refusal }
      if !ledger.hooks.has(.taintWordLeftOut) { ring.file.setTaint(layer.key) }
      return ledger.markTainted(layer, reason)
    }
    for read in woken { read.wake(.retry) }
    guard isFirst else { return try ledger.waitForTaintRecord(layer) }
    log(.error, "\(name(of: layer.key)) is tainted: \(reason)")
    ledger.hooks.reach(.taintMarked)
    try append(.taint, layer.key, body: Array(reason.utf8))
  }

  func taintAgain(_ key: LayerKey, _ reason: String) throws(JournalError) {
    guard let layer = ledger.lock.withLock({ ledger.layers[key] }),
      ledger.lock.withLock({ layer.taint }) == nil
    else { return }
    try taint(layer, reason, evenClosed: true)
  }

  /// Acknowledged old data is gone while the guest may live on: an open snapshot cannot be whole any more.
  func taintWhatLostItsSpool() throws(JournalError) {
    let open = ledger.lock.withLock {
      ledger.layers.values.filter {
        ledger.disks[$0.key.disk]?.mode == .snapshot && $0.taint == nil && $0.canLoseWrites
      }
    }
    for layer in open { try taint(layer, "acknowledged writes were lost with the spool") }
  }

  /// Marks `layers` as broken in the ring of the journal in `directory`, whose owner has died, and which nobody has opened
  /// since. Whoever opens it next finds them tainted. False when there is no ring.
  ///
  /// For whoever goes on acknowledging writes in the place of the owner: the mark comes before the first write that is
  /// acknowledged and lost.
  package static func markTainted(_ layers: [LayerKey], in directory: String) throws(JournalError) -> Bool {
    guard let superblock = try JournalDirectory(path: directory).readSuperblock(), !superblock.isClean else {
      return false
    }
    do throws(FileError) {
      guard
        let ring = try SpoolFile.open(superblock.ringPath, uuid: superblock.ring, journal: superblock.journal)
      else { return false }
      for layer in layers { ring.setTaint(layer) }
      return true
    } catch {
      throw JournalError(error)
    }
  }

  /// Removes the ring of the journal in `directory`, whose owner has died: what it holds is lost. For a journal that is about
  /// to be removed itself; the ring lies elsewhere, in memory, and nobody else would find it.
  package static func removeRing(of directory: String) throws(JournalError) {
    guard let superblock = try JournalDirectory(path: directory).readSuperblock(), !superblock.isClean else {
      return
    }
    do throws(FileError) {
      // Nil when the file of that name is not the journal's.
      let ring = try SpoolFile.open(superblock.ringPath, uuid: superblock.ring, journal: superblock.journal)
      ring?.remove()
    } catch {
      throw JournalError(error)
    }
  }
}
