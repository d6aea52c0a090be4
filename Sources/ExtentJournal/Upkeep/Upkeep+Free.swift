internal import BlockFile
internal import Bytes
internal import LMDB
internal import Threads

// Freeing: segments that are dead are unlinked, dead runs of others punched (rules 1 to 6).

extension Upkeep {
  /// What a turn has found to free.
  private struct FreePlan {
    var unlinks: [(number: UInt64, kind: SegmentKind, allocatedBytes: UInt64)] = []
    var removed: [RemovedRun] = []
    var records: [Record] = []
    var punches: [(number: UInt64, runs: [Range<UInt64>])] = []
    /// The highest batch of what is touched.
    var lastBatch: UInt64 = 0
    var listMoves = false
    /// Whether what says which batches are durable goes.
    var durabilityMoves = false

    var isEmpty: Bool { unlinks.isEmpty && punches.isEmpty }
  }

  /// Frees what can be freed of some segments. False when there is nothing to look at.
  func freeSome() throws(JournalError) -> Bool {
    if removed == nil { try loadRemoved() }
    return try indexer.inTurn { (tables) throws(JournalError) -> Bool in
      let sums = try liveSums(tables)
      let isThorough = !isBusy || isShort
      let all = try segments(tables)
      bounds = try bounds(tables)
      let candidates = all.filter { number, _ in
        isWorthALook(settled[number], sums[number, default: SegmentLiveness()], isThorough: isThorough)
          || waiting[number].map { $0.sequence <= bounds.horizon } ?? false
      }
      forgetAllBut(all.map(\.number))
      guard !candidates.isEmpty else { return false }
      let catalog = try tables.catalog()
      merging = LayerState.merging(catalog.layers)
      var plan = FreePlan()
      let some = candidates.prefix(Self.segmentsPerTurn)
      for (number, kind) in some {
        try consider(
          number, kind, sums[number] ?? SegmentLiveness(), tables, Set(catalog.layers.map(\.key)), &plan)
      }
      if !plan.isEmpty {
        guard try free(plan) else {
          // Somebody reads: later.
          return false
        }
      }
      for (number, _) in some {
        settled[number] = sums[number] ?? SegmentLiveness()
        if let past = waiting[number], past.sequence <= bounds.horizon { waiting[number] = nil }
      }
      lock.withLock { publishedUsage = usage }
      return true
    } ?? false
  }

  func liveSums(_ tables: IndexTables) throws(JournalError) -> [UInt64: SegmentLiveness] {
    do throws(LMDBError) { return try tables.liveSegments() } catch { throw JournalError(error) }
  }

  /// The segments that may be touched (rules 1 and 6). In a turn.
  private func segments(
    _ tables: IndexTables
  ) throws(JournalError) -> [(number: UInt64, kind: SegmentKind)] {
    let indexed = ledger.lock.withLock { ledger.indexed.segment }
    var kept: [UInt64: UInt64] = [:]
    do throws(LMDBError) { kept = try tables.keptSegments() } catch { throw JournalError(error) }
    if ledger.hooks.has(.pastSegmentsTouched) { kept = [:] }
    do throws(FileError) {
      return try store.list(.fresh).filter { $0 < indexed && kept[$0] == nil }.map { ($0, .fresh) }
        + store.list(.moved).filter { $0 != mover.openNumber }.map { ($0, .moved) }
    } catch {
      throw failure(error)
    }
  }

  /// Whether a segment has lost something since it was looked at; while a stream comes in, a thirty-second at least: random
  /// writes take a little of every segment all the time, and each look reads a directory.
  private func isWorthALook(_ seen: SegmentLiveness?, _ now: SegmentLiveness, isThorough: Bool) -> Bool {
    guard let seen, !now.isEmpty, !isThorough else { return seen != now }
    return now.sectors + seen.sectors / 32 < seen.sectors || now.sectors > seen.sectors
  }

  /// Where horizon and index are. In a turn.
  private func bounds(_ tables: IndexTables) throws(JournalError) -> (horizon: UInt64, applied: UInt64) {
    let applied = ledger.lock.withLock { ledger.indexed.sequence }
    do throws(LMDBError) {
      return (try tables.horizon()?.sequence ?? applied, applied)
    } catch {
      throw JournalError(error)
    }
  }

  private func forgetAllBut(_ numbers: [UInt64]) {
    let known = Set(numbers)
    settled = settled.filter { known.contains($0.key) }
    recompressed.formIntersection(known)
    waiting = waiting.filter { known.contains($0.key) }
    usage = usage.filter { known.contains($0.key) }
    exhausted = exhausted.filter { known.contains($0.key) }
    punched = punched.filter { known.contains($0.key) }
  }

  private func consider(
    _ number: UInt64, _ kind: SegmentKind, _ sum: SegmentLiveness, _ tables: IndexTables,
    _ layers: Set<LayerKey>,
    _ plan: inout FreePlan
  ) throws(JournalError) {
    guard case .success(let segment) = try store.segmentOrFlaw(number),
      let inventory = try SegmentInventory.read(segment)
    else { return }
    let allocated: UInt64
    let live: [LiveFrame]
    do throws(FileError) { allocated = try store.allocatedByteCount(number, kind) } catch {
      throw failure(error)
    }
    do throws(LMDBError) { live = try tables.liveFrames(of: number) } catch { throw JournalError(error) }
    usage[number] = SegmentUsage(
      sum: sum, kind: kind, liveBytes: inventory.storedByteCount(of: live),
      keptBytes: inventory.keptByteCount(of: live), allocatedBytes: allocated)
    if sum.isEmpty, try retire(number, kind, inventory, allocated, tables, layers, &plan) { return }
    guard canPunch, inventory.isSealed else { return }
    let groups = UInt64(SegmentSuperblock.byteCount)..<inventory.end.offset
    let done = punched[number] ?? []
    let runs = DeadRuns.find(
      in: groups, live: live, byteCountMin: byteCountMin(allocated, live: live), countMax: Self.punchedRunsMax
    ).filter { run in !done.contains { $0.lowerBound <= run.lowerBound && run.upperBound <= $0.upperBound } }
    guard !runs.isEmpty else { return }
    plan.punches.append((number, runs))
    plan.lastBatch = max(plan.lastBatch, inventory.end.batch)
  }

  /// Runs below 64 KiB cost a call and an extent each: only when the segment has lost more than a tenth to smaller ones.
  private func byteCountMin(_ allocated: UInt64, live: [LiveFrame]) -> UInt64 {
    let needed = live.reduce(0) { $0 + UInt64($1.address.kibibytes) * 1024 }
    return allocated > needed + needed / 10 + limits.punchedBytesMin
      ? UInt64(AlignedBuffer.alignment) : limits.punchedBytesMin
  }

  /// Plans the end of a segment without live frames. False when its records keep it.
  private func retire(
    _ number: UInt64, _ kind: SegmentKind, _ inventory: SegmentInventory, _ allocated: UInt64,
    _ tables: IndexTables, _ layers: Set<LayerKey>, _ plan: inout FreePlan
  ) throws(JournalError) -> Bool {
    let holdsList = number == removedHome
    guard let records = try keptRecords(number, inventory, tables, layers) else { return false }
    let isKept = !records.isEmpty || holdsList && removed?.runs.isEmpty == false
    let recordBytes = records.reduce(0) { $0 + UInt64(RecordItem.byteCount($1)) }
    if isKept, allocated < limits.retiredBytesMin + 2 * recordBytes { return false }
    plan.unlinks.append((number, kind, allocated))
    plan.records += records
    plan.listMoves = plan.listMoves || holdsList
    plan.lastBatch = max(plan.lastBatch, inventory.end.batch)
    if kind == .moved, !ledger.hooks.has(.durabilityForgotten) {
      // What it calls durable nobody else may.
      mover.inherit(inventory.durableThrough)
      plan.lastBatch = max(plan.lastBatch, inventory.durableThrough)
      plan.durabilityMoves = plan.durabilityMoves || number == mover.recordedHome
    }
    if kind == .fresh, inventory.firstBatch > 0 {
      plan.removed.append(
        RemovedRun(
          firstBatch: inventory.firstBatch, lastBatch: inventory.end.batch,
          lastSequence: inventory.end.sequence, chain: inventory.end.chain))
    }
    return true
  }

  /// Frees what `plan` says, after what it takes is durable. False when somebody else reads.
  private func free(_ plan: FreePlan) throws(JournalError) -> Bool {
    guard let pin = ReaderPin(freeing: directory) else {
      note { $0.postponements += 1 }
      return false
    }
    let listed = removed ?? RemovedSegments()
    var list = listed
    for run in plan.removed { list.add(run) }
    let listIsNews = list != listed || plan.listMoves && !list.runs.isEmpty
    if listIsNews || !plan.records.isEmpty || plan.durabilityMoves || mover.recordedDurable < plan.lastBatch {
      try move(plan.records + (listIsNews ? list.records : []))
      // From here on the list says so, whether or not the segments go now.
      removed = list
      if listIsNews { removedHome = mover.openNumber }
      note { $0.movedRecords += UInt64(plan.records.count) }
    }
    do throws(FileError) { try mover.sync() } catch { throw failure(error) }
    if !ledger.hooks.has(.freedUnderReaders) { epochs.waitForEarlierReaders() }
    ledger.hooks.reach(.freeing)
    do throws(FileError) {
      for unlink in plan.unlinks { try store.remove(unlink.number, unlink.kind) }
      if !plan.unlinks.isEmpty { try store.files.syncNames() }
    } catch {
      throw failure(error)
    }
    note {
      $0.unlinkedSegments += UInt64(plan.unlinks.count)
      $0.unlinkedBytes += plan.unlinks.reduce(0) { $0 + $1.allocatedBytes }
    }
    for (number, runs) in plan.punches where canPunch { try punch(number, runs) }
    ledger.hooks.reach(.freed)
    ledger.signalSpace()
    _ = consume pin
    return true
  }

  private func punch(_ number: UInt64, _ runs: [Range<UInt64>]) throws(JournalError) {
    let segment = try store.segment(number)
    do throws(FileError) {
      defer { if let kind = usage[number]?.kind { store.noteChange(number, kind) } }
      for run in runs { try segment.file.punch(run) }
    } catch {
      guard error.isUnsupported else { throw failure(error) }
      canPunch = false
      log(
        .info,
        "the filesystem of the journal cannot give back parts of files; dead space is compacted instead")
      return
    }
    punched[number, default: []] += runs
    if let kind = usage[number]?.kind {
      do throws(FileError) {
        usage[number]?.allocatedBytes = try store.allocatedByteCount(number, kind)
      } catch {
        throw failure(error)
      }
    }
    note {
      $0.punchedRuns += UInt64(runs.count)
      $0.punchedBytes += runs.reduce(0) { $0 + UInt64($1.count) }
    }
  }
}

extension SegmentInventory {
  /// Stored bytes of `live`, frames of this segment; of a frame that is live in part its part.
  func storedByteCount(of live: [LiveFrame]) -> UInt64 {
    sum(over: live) { header, sectors, total in UInt64(header.itemByteCount) * sectors / total }
  }

  /// What compaction would make of `live`, in bytes, with what a directory says of it.
  func keptByteCount(of live: [LiveFrame]) -> UInt64 {
    sum(over: live) { header, sectors, total in
      let item = UInt64(header.itemByteCount)
      let stays = Upkeep.copiesWhole(liveSectors: sectors, of: total) ? item : item * sectors / total
      return stays + UInt64(SegmentDirectory.entryByteCount(header.byteCount))
    }
  }

  private func sum(
    over live: [LiveFrame], _ bytes: (FrameHeader, _ liveSectors: UInt64, _ sectors: UInt64) -> UInt64
  ) -> UInt64 {
    var sectors: [UInt64: UInt64] = [:]
    for frame in live { sectors[frame.address.offset] = UInt64(frame.sectors) }
    return frames.reduce(0) { sum, frame in
      guard let references = sectors[frame.offset] else { return sum }
      let total = max(UInt64(frame.header.rawByteCount) / Sector.byteCount, 1)
      return sum + bytes(frame.header, min(references, total), total)
    }
  }
}
