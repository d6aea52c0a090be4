internal import BlockFile
internal import Bytes
internal import Glibc
internal import LMDB
internal import Threads

// What a journal finds when it is opened, and how it becomes whole again (rule D).
//
//   superblock ─▶ ring: void (another boot), lost, or still there
//   index ─▶ the applied position; missing or foreign: an empty one, and everything is replayed
//   segments ─▶ batches after the applied position, in order; a torn tail is cut
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

  /// Opens the index; one that cannot be used is set aside and an empty one takes its place.
  func openIndex(journal: JournalUUID) throws(JournalError) -> (index: Index, applied: AppliedPosition) {
    do throws(JournalError) {
      return try openIndexOnce(journal: journal)
    } catch {
      guard error.kind != .noSpace else { throw error }
      log(.warning, "\(error.message); the index is built again from the segments")
    }
    for name in ["data.mdb", "lock.mdb"] { unsafe unlink("\(directory.indexPath)/\(name)") }
    return try openIndexOnce(journal: journal)
  }

  private func openIndexOnce(journal: JournalUUID) throws(JournalError) -> (Index, AppliedPosition) {
    let index: Index
    do throws(LMDBError) {
      index = try Index(path: directory.indexPath, readOnly: false)
    } catch {
      throw JournalError(error)
    }
    return (index, try index.applied(journal: journal) ?? AppliedPosition())
  }

  /// Brings every batch after the applied position into the ledger and cuts a torn tail. Returns the last segment
  /// number in use.
  func replaySegments(
    _ store: SegmentStore, into ledger: Ledger, _ index: Index, journal: JournalUUID
  ) throws(JournalError) -> UInt64 {
    let segments = try listSegments(store)
    let applied = ledger.published
    for number in segments where number <= applied.segment { _ = try store.segment(number) }
    if applied.segment > 0, !segments.contains(applied.segment) {
      throw JournalError(
        .damaged,
        "segments/\(SegmentStore.name(applied.segment)) is missing; restore it from a copy of the journal")
    }
    var unindexed = 0
    let scanner = SegmentScanner(store: store, verifiesPayloads: true)
    let (end, _) = try scanner.scan(after: applied, segments: segments) { batch throws(JournalError) in
      ledger.publish(batch, spooled: [])
      unindexed += batch.extents.count
      // A rebuild must not keep a terabyte's extents in memory. What is read here was written before, so it is
      // as durable as it will be once the file is synced.
      if unindexed >= 200_000 {
        try commit(store, segments, batch.end, ledger, index, journal)
        unindexed = 0
      }
    }
    if case .torn(let number, let offset) = end { try cut(store, segments, at: number, offset) }
    // What was read may be in the page cache only; from here on it counts as durable.
    for number in try listSegments(store) where number >= applied.segment {
      let file = try store.segment(number).file
      do throws(FileError) { try file.sync() } catch { throw JournalError(error) }
    }
    do throws(FileError) { try store.files.syncNames() } catch { throw JournalError(error) }
    return segments.last ?? 0
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

  private func listSegments(_ store: SegmentStore) throws(JournalError) -> [UInt64] {
    do throws(FileError) { return try store.list() } catch { throw JournalError(error) }
  }

  private func commit(
    _ store: SegmentStore, _ segments: [UInt64], _ end: AppliedPosition, _ ledger: Ledger, _ index: Index,
    _ journal: JournalUUID
  ) throws(JournalError) {
    for number in max(ledger.indexed.segment, 1)...end.segment where segments.contains(number) {
      let file = try store.segment(number).file
      do throws(FileError) { try file.sync() } catch { throw JournalError(error) }
    }
    let delta = ledger.beginIndexing()
    do throws(LMDBError) { try index.commit(delta, journal: journal) } catch { throw JournalError(error) }
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
    live.sort { $0.sequence < $1.sequence }
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
