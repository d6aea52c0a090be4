internal import BlockFile
internal import Bytes
internal import Glibc
internal import LMDB
internal import Threads

// What a journal finds when it is opened, and how it becomes whole again (rule D).
//
//   superblock ─▶ ring: void (another boot), lost, or still there
//   index ─▶ the applied position; missing or foreign: an empty one, and everything is replayed
//   segments ─▶ batches after the applied position, in order; a torn tail is cut, damage is reported and passed over
//   ring ─▶ records above the last sequence in the segments, in order
//
// Replaying is idempotent: a batch sets sectors to what it says, in sequence order, whatever was there.
struct Recovery {
  let directory: JournalDirectory
  let superblock: JournalSuperblock?
  let boot: JournalUUID
  let options: JournalOptions
  let log: JournalLog

  /// The ring that holds acknowledged data of the last run, if there is one. `isLost` when there should be.
  func recoverRing() throws(JournalError) -> (file: SpoolFile?, isLost: Bool) {
    guard let superblock, !superblock.isClean, superblock.ring != .zero else { return (nil, false) }
    if superblock.boot != boot {
      log(
        .warning,
        "the machine was started anew since the journal was last open: what was only in the spool is lost")
      unsafe unlink(superblock.ringPath)
      return (nil, true)
    }
    let found: SpoolFile?
    do throws(FileError) {
      found = try SpoolFile.open(superblock.ringPath, uuid: superblock.ring, journal: superblock.journal)
    } catch {
      guard error.errno != EWOULDBLOCK else {
        throw JournalError(
          .inUse,
          "the spool ring \(superblock.ringPath) is in use by a spillway that serves a copy of this journal; stop it first"
        )
      }
      throw JournalError(.damaged, "the spool ring cannot be opened: \(error)")
    }
    if let found { return (found, false) }
    guard options.acceptLoss else {
      throw JournalError(
        .damaged,
        "the spool ring \(superblock.ringPath) is gone, and acknowledged writes with it; --accept-loss goes on without them"
      )
    }
    log(.warning, "the spool ring \(superblock.ringPath) is gone; going on without what was in it")
    return (nil, true)
  }

  /// An opened index and what is in it besides extents.
  struct OpenedIndex {
    var index: Index
    var catalog: (disks: [DiskID: DiskBody], layers: [LayerState])
    /// What the journal had lost before.
    var loss: String?
    var applied: AppliedPosition
    /// Nil when the index is new or was lost.
    var horizon: Horizon?
  }

  /// Opens the index; one that cannot be used makes room for an empty one.
  func openIndex(journal: JournalUUID, _ settings: Index.Settings) throws(JournalError) -> OpenedIndex {
    let place = directory.index
    do throws(FileError) {
      if place.isAbandoned { log(.warning, "the index was abandoned; it is built again from the segments") }
      try place.prepare()
    } catch {
      throw JournalError(error)
    }
    // A crash in the middle of a rebuild's last step has left no directory, and its end makes one.
    try directory.create()
    do throws(JournalError) {
      return try openIndexOnce(journal, settings)
    } catch {
      guard error.kind != .noSpace else { throw error }
      log(.warning, "\(error.message); the index is built again from the segments")
    }
    do throws(FileError) { try place.clear() } catch { throw JournalError(error) }
    return try openIndexOnce(journal, settings)
  }

  private func openIndexOnce(
    _ journal: JournalUUID, _ settings: Index.Settings
  ) throws(JournalError) -> OpenedIndex {
    let index: Index
    do throws(LMDBError) {
      index = try Index(directory.index, settings)
    } catch {
      throw JournalError(error)
    }
    let tables = index.current
    let applied = try tables.applied(journal: journal) ?? AppliedPosition()
    let horizon: Horizon?
    do throws(LMDBError) { horizon = try tables.horizon() } catch { throw JournalError(error) }
    return OpenedIndex(
      index: index, catalog: try tables.catalog(), loss: try tables.loss(), applied: applied, horizon: horizon
    )
  }

  /// What the segments had to say.
  struct SegmentOutcome {
    /// The highest sequence that what is gone may have had: a batch that was cut off, or what the ring saw written.
    var usedSequence: UInt64 = 0
    /// What was durable and is not whole.
    var damage: [SegmentDamage] = []
    /// The layers that may miss something nobody knows, and why.
    var incomplete: [LayerKey: String] = [:]
  }

  /// Brings every batch after the applied position into the ledger and cuts a torn tail.
  ///
  /// What the `ring` of the same boot says was written must be there. When its owner had an I/O error, what is read is
  /// written once more before it is synced: after a failed sync the page cache may hold it as clean, and a sync that has
  /// nothing to do proves nothing.
  func replaySegments(
    _ store: SegmentStore, into ledger: Ledger, _ index: Index, _ history: History, journal: JournalUUID,
    ring: SpoolFile?
  ) throws(JournalError) -> SegmentOutcome {
    let segments = try listSegments(store)
    let applied = ledger.published
    var outcome = SegmentOutcome()
    do throws(FileError) {
      store.skipNumbers(through: try store.highestNumber())
    } catch {
      throw JournalError(error)
    }
    var loss: SegmentDamage?
    let scanner = SegmentScanner(
      store: store, writtenThrough: ring?.spilledThrough ?? 0, isSameBoot: superblock?.boot == boot,
      hooks: ledger.hooks
    ) {
      damage in
      outcome.damage.append(damage)
      if damage.isUnknown { loss = damage }
    }
    var progress = RecoveryProgress(segments: segments.count { $0 > applied.segment }, log: log)
    var orphans: Set<LayerKey> = []
    var unindexed = 0
    let (end, _) = try scanner.scan(after: applied, segments: segments) { batch throws(JournalError) in
      ledger.publish(batch, spooled: [])
      noteOrphans(batch, ledger, &orphans)
      if let lost = loss {
        for layer in ledger.lock.withLock({ ledger.layers.keys }) where outcome.incomplete[layer] == nil {
          outcome.incomplete[layer] = lost.sentence
        }
        loss = nil
      }
      unindexed += batch.extents.count
      progress.note(segment: batch.end.segment - min(applied.segment, batch.end.segment))
      // A rebuild must not keep a terabyte's extents in memory. What is read here was written before, so it is
      // as durable as it will be once the file is synced.
      if unindexed >= 200_000 {
        try commit(store, segments, batch.end, ledger, index, history, journal)
        unindexed = 0
      }
    }
    if let lost = loss {
      for layer in ledger.lock.withLock({ ledger.layers.keys }) { outcome.incomplete[layer] = lost.sentence }
    }
    progress.end()
    if case .torn(let number, let offset, let lastSequence) = end {
      outcome.usedSequence = lastSequence
      try cut(store, segments, at: number, offset)
    }
    outcome.usedSequence = max(outcome.usedSequence, ring?.spilledThrough ?? 0)
    try sealLast(store, scanner)
    // What was read may be in the page cache only; from here on it counts as durable.
    let moved = try listSegments(store, .moved).suffix(MovedWriter.unsyncedSegmentsMax)
    for number in try listSegments(store).filter({ $0 >= applied.segment }) + moved {
      guard case .success(let segment) = try store.segmentOrFlaw(number) else { continue }
      if ring?.hasFailed ?? false { try writeAgain(segment) }
      do throws(FileError) { try segment.file.sync() } catch { throw JournalError(error) }
    }
    do throws(FileError) { try store.files.syncNames() } catch { throw JournalError(error) }
    return outcome
  }

  private func writeAgain(_ segment: OpenSegment) throws(JournalError) {
    let size = try segment.byteCount()
    for offset in stride(from: 0, to: size, by: 1 << 20) {
      let count = min(size - offset, 1 << 20)
      let buffer = try segment.read(at: offset, byteCount: Int(count).roundedUp(to: AlignedBuffer.alignment))
      do throws(FileError) {
        try segment.file.write(buffer, byteCount: buffer.byteCount, at: offset)
      } catch {
        throw JournalError(error)
      }
    }
  }

  /// Says, once each, which generations have data and no record that begins them: the data is kept and cannot be read.
  private func noteOrphans(_ batch: PublishedBatch, _ ledger: Ledger, _ known: inout Set<LayerKey>) {
    for (layer, _, _) in batch.extents where !known.contains(layer) {
      known.insert(layer)
      guard ledger.lock.withLock({ ledger.layers[layer] == nil }) else { continue }
      log(
        .error,
        "segments/\(SegmentStore.name(batch.end.segment)) holds data of generation \(layer.generation.number) of disk number \(layer.disk.number), which no record begins; it cannot be read"
      )
    }
  }

  /// Gives the last segment the directory that a crash kept it from getting. It is a convenience: where there is no room
  /// for it the segment stays as it is.
  private func sealLast(_ store: SegmentStore, _ scanner: SegmentScanner) throws(JournalError) {
    guard let last = try listSegments(store).last, case .success(let segment) = try store.segmentOrFlaw(last),
      let (directory, end, durable) = try scanner.directory(of: segment)
    else { return }
    do throws(FileError) {
      try SegmentWriter.seal(segment, directory, at: end, durableThrough: durable)
    } catch {
      guard error.isNoSpace else { throw JournalError(error) }
      do throws(FileError) { try segment.file.truncate(to: end.offset) } catch { throw JournalError(error) }
    }
  }

  /// Removes what a crash tore off: everything from `offset` of segment `number` on. The last goes first and durably, so
  /// that a crash in here leaves a journal that is torn at the same place.
  private func cut(
    _ store: SegmentStore, _ segments: [UInt64], at number: UInt64, _ offset: UInt64
  ) throws(JournalError) {
    log(.warning, "cut an unfinished batch at offset \(offset) of segments/\(SegmentStore.name(number))")
    let keepsHead = offset > UInt64(SegmentSuperblock.byteCount)
    do throws(FileError) {
      for later in segments.reversed() where later > number || later == number && !keepsHead {
        try store.remove(later)
        try store.files.syncNames()
      }
    } catch {
      throw JournalError(error)
    }
    guard keepsHead else { return }
    let file = try store.segment(number).file
    do throws(FileError) {
      try file.truncate(to: offset)
      try file.sync()
    } catch {
      throw JournalError(error)
    }
  }

  private func listSegments(
    _ store: SegmentStore, _ kind: SegmentKind = .fresh
  ) throws(JournalError) -> [UInt64] {
    do throws(FileError) { return try store.list(kind) } catch { throw JournalError(error) }
  }

  private func commit(
    _ store: SegmentStore, _ segments: [UInt64], _ end: AppliedPosition, _ ledger: Ledger, _ index: Index,
    _ history: History, _ journal: JournalUUID
  ) throws(JournalError) {
    let first = max(ledger.indexed.segment, 1)
    for number in segments where number >= first && number <= end.segment {
      guard case .success(let segment) = try store.segmentOrFlaw(number) else { continue }
      do throws(FileError) { try segment.file.sync() } catch { throw JournalError(error) }
    }
    let delta = ledger.beginIndexing()
    do throws(LMDBError) {
      let horizon = history.horizon(ofRecovery: delta.end.sequence)
      try index.commit(delta, journal: journal, horizon: horizon)
    } catch {
      // An index that fails is built anew once the journal is open; until then what it lacks stays in memory.
      if error.isDamage { return }
      throw JournalError(error)
    }
    ledger.finishIndexing(delta)
  }

  /// Takes over what the ring holds above the last sequence in the segments. Returns the headers that keep their place.
  func replayRing(_ file: SpoolFile, into ledger: Ledger) -> (headers: [SpoolHeader], dead: [UInt64]) {
    let headers = SpoolRing.walk(file)
    let spilled = ledger.lock.withLock { ledger.spilledThrough }
    var live: [(sequence: UInt64, allZero: Bool, header: SpoolHeader)] = []
    var dead: [UInt64] = []
    for header in headers {
      if let (sequence, allZero) = file.committed(header.position), sequence > spilled {
        live.append((sequence, allZero, header))
      } else {
        dead.append(header.position)
      }
    }
    if !ledger.hooks.has(.ringReplayedInPlaceOrder) { live.sort { $0.sequence < $1.sequence } }
    for (sequence, allZero, header) in live {
      let slot = SpoolSlot(
        position: header.position, byteCount: header.byteCount, payloadByteCount: header.payloadByteCount,
        admittedByteCount: header.kind == .data ? SpaceAccount.storedBytesMax(header.range) : 0)
      let body = header.kind.hasExtent ? [] : bytes(of: slot, in: file)
      ledger.recover(
        PendingRecord(
          record: Record(
            kind: allZero ? .zero : header.kind, layer: header.layer, sequence: sequence, range: header.range,
            body: body), slot: slot, since: MonotonicClock.nanoseconds()))
    }
    if !live.isEmpty { log(.info, "took over \(live.count) acknowledged writes from the spool") }
    return (headers, dead)
  }

  private func bytes(of slot: SpoolSlot, in file: SpoolFile) -> [UInt8] {
    // SAFETY: the record's payload lies in the ring and nothing reuses it before the ring is handed out.
    unsafe [UInt8](file.memory(slot.payloadPosition, byteCount: slot.payloadByteCount))
  }
}
