package import Bytes
internal import Extents
internal import LMDB
internal import Threads

// The way back. A read looks, newest first, in the ring, in what memory knows of the segments, and in the index
// (Ledger, rule 3); then it copies ring bytes, leaves the ring's epoch, fetches frames, and leaves the segments'.

/// A piece of an answered read.
package struct ReadRun: Sendable, Equatable {
  /// Bytes of the disk; inside the range that was read.
  package var range: ByteRange
  /// Whether it is known to be zeroes without having been stored as bytes.
  package var isZero: Bool
}

/// What a read of a view came to.
package enum ViewRead: Sendable {
  /// The target is filled; the runs are in order, without gaps.
  case served([ReadRun])
  /// Something has not arrived: `wake` will be called once, unless the owner is dropped before.
  case parked
  /// The source has to be read, and the caller may not wait: it calls again from a thread that may.
  case blocks
}

extension Disk {
  /// Reads what the open generation holds at `range` into `target` (same size). Never waits: what was never written
  /// is zeroes on a device disk and an error on a snapshot disk. For an `owner` that reads in order the next frames are
  /// fetched, until `forgetReader`.
  package func readIngest(
    _ range: ByteRange, into target: inout MutableRawSpan, owner: UInt64? = nil
  ) throws(JournalError) -> [ReadRun] {
    let layer = layer
    let found = try plan(layer, range.coveringSectors)
    try refuseTainted(found)
    try refuseReleased(found)
    if mode == .snapshot, let gap = found.pieces.first(where: { $0.source == .absent }) {
      journal.epochs.leave(found.epoch)
      throw JournalError(
        .failed, "byte \(gap.range.bytes.start) of \(name) has not arrived; read the view to wait for it")
    }
    let runs = try copy(found, layer, range, into: &target)
    if let owner { journal.readAhead.note(range, of: self, by: owner) }
    return runs
  }

  /// Reads what is stored in `layer`; what is absent is zeroes. For the engine's own comparisons.
  func readStored(
    _ range: ByteRange, of layer: Layer, into target: inout MutableRawSpan
  ) throws(JournalError) {
    _ = try copy(try plan(layer, range.coveringSectors), layer, range, into: &target)
  }

  /// Reads the live view of the open generation at `range` into `target` (same size), or parks.
  ///
  /// `since` is when the request came in (nanoseconds of MonotonicClock): the read timeout counts from there.
  /// `isRetry` when the read was parked before. `wake` is called once, from any thread, and must not block. Unless it
  /// `mayBlock` the call does not wait for a source, and says so.
  package func readView(
    _ range: ByteRange, into target: inout MutableRawSpan, since: UInt64, isRetry: Bool, owner: UInt64,
    mayBlock: Bool = true, wake: () -> @Sendable (ParkWake) -> Void
  ) throws(JournalError) -> ViewRead {
    while true {
      let layer = layer
      let found = try plan(layer, range.coveringSectors)
      try refuseTainted(found)
      try refuseReleased(found)
      guard let gap = found.pieces.first(where: { $0.source == .absent }) else {
        let runs = try copy(found, layer, range, into: &target)
        journal.readAhead.note(range, of: self, by: owner)
        journal.sourceCounters.readsFromJournal.add()
        return .served(runs)
      }
      if let attachment = found.attachment {
        let isReady: Bool
        do throws(JournalError) { isReady = try self.isReady(attachment) } catch {
          journal.epochs.leave(found.epoch)
          throw error
        }
        guard isReady else {
          journal.epochs.leave(found.epoch)
          if try park(layer, gap.range, found, since, isRetry, owner, wake) { return .parked }
          continue
        }
        if let runs = try readKept(found, range, into: &target) {
          journal.sourceCounters.readsFromSource.add()
          return .served(runs)
        }
        journal.epochs.leave(found.epoch)
        guard mayBlock else { return .blocks }
        guard let runs = try readThrough(attachment, range, into: &target, owner: owner) else { continue }
        journal.sourceCounters.readsFromSource.add()
        return .served(runs)
      }
      switch absence(found) {
      case .zeroes:
        return .served(try copy(found, layer, range, into: &target))
      case .error:
        journal.epochs.leave(found.epoch)
        throw JournalError(
          .failed,
          "byte \(gap.range.bytes.start) of \(name) \(found.isComplete ? "never arrived" : "has not arrived")\(found.closure.map { ": \($0)" } ?? "")"
        )
      case .wait:
        journal.epochs.leave(found.epoch)
        if try park(layer, gap.range, found, since, isRetry, owner, wake) { return .parked }
      }
    }
  }

  /// Leaves the epoch when it throws.
  func refuseTainted(_ found: Plan) throws(JournalError) {
    if found.isDropped {
      journal.epochs.leave(found.epoch)
      throw JournalError(.failed, "this generation of \(name) was dropped")
    }
    guard let taint = found.taint else { return }
    journal.epochs.leave(found.epoch)
    throw JournalError(.failed, "\(name) is tainted: \(taint)")
  }

  func absence(_ found: Plan) -> Unarrived {
    if found.closure != nil { return .error }
    guard found.isComplete else { return journal.options.unarrived }
    switch journal.options.afterComplete ?? (mode == .snapshot ? .error : .zeroes) {
    case .zeroes: return .zeroes
    case .error: return .error
    }
  }

  /// Parks, unless something changed since the look: then the caller looks again.
  private func park(
    _ layer: Layer, _ gap: SectorRange, _ found: Plan, _ since: UInt64, _ isRetry: Bool,
    _ owner: UInt64,
    _ wake: () -> @Sendable (ParkWake) -> Void
  ) throws(JournalError) -> Bool {
    let ledger = journal.ledger
    ledger.lock.lock()
    defer { ledger.lock.unlock() }
    if layer.isComplete != found.isComplete || layer.taint != nil || layer.absentIsZero
      || ledger.indexVersion != found.indexVersion
      || layer.isSourceNews(since: found)
      || !ledger.look(layer, SectorRange(start: gap.start, count: 1)).pieces.isEmpty
    {
      return false
    }
    if let failure = ledger.failure { throw failure }
    if let stall = ledger.stall { throw stall }
    if ledger.isClosing { throw .closing }
    let timeout = journal.options.readTimeoutNanoseconds
    if timeout > 0, MonotonicClock.nanoseconds() >= since + timeout {
      throw JournalError(.failed, timeoutMessage)
    }
    let isOldest = layer.parked.add(ParkedRead(range: gap, since: since, owner: owner, wake: wake()))
    ledger.counters.parkedReads += 1
    if !isRetry { ledger.counters.waitedReads += 1 }
    if isOldest { ledger.parkedChanged.signal() }
    return true
  }

  /// What a reader is told whose wait was too long.
  package var timeoutMessage: String { "\(name): the data did not arrive within the read timeout" }

  /// Which parts of `range` have arrived in `layer`, and which not.
  func arrived(_ layer: Layer, _ range: SectorRange) throws(JournalError) -> (
    known: [SectorRange], missing: [SectorRange]
  ) {
    let found = try plan(layer, range, through: .none)
    journal.epochs.leave(found.epoch)
    var known: [SectorRange] = []
    var missing: [SectorRange] = []
    for piece in found.pieces {
      if piece.source == .absent { missing.append(piece.range) } else { known.append(piece.range) }
    }
    return (known, missing)
  }

  // MARK: - Plans

  /// Where everything in a range is. The caller leaves the epoch.
  struct Plan {
    var pieces: [PlannedPiece]
    var epoch: ReadEpochs.Ticket
    var indexVersion: UInt64
    var isComplete: Bool
    var taint: String?
    /// The source of what is absent, if the layer has one, and which change of its state was the last.
    var attachment: SourceAttachment?
    var sourceVersion: UInt64 = 0

    /// The sectors that are absent, in order.
    var absent: [SectorRange] { pieces.filter { $0.source == .absent }.map(\.range) }
    /// Why what is absent never comes; nil while it may.
    var closure: String?
    /// What what falls to the base falls to: the layer as it was when the first piece was looked up.
    var base: Layer?
    /// Whether the layer is of no interest to anybody any more.
    var isDropped = false
  }

  /// Which bases a plan goes through.
  enum Bases {
    /// What falls to the base is said to.
    case none
    /// Those that were dropped and that the index has not followed: what they brought is their dependent's own.
    case dropped
    /// All: what falls to the base is where the base has it.
    case all
  }

  /// Where everything in `range` is.
  func plan(_ layer: Layer, _ range: SectorRange, through bases: Bases = .all) throws(JournalError) -> Plan {
    while true {
      if let plan = try planNow(layer, range, bases) { return plan }
      // Outside the epoch, since nobody may wait inside one.
      try journal.index.waitUntilTrusted()
    }
  }

  /// Nil when it takes an index that can be believed, and there is none now.
  private func planNow(
    _ layer: Layer, _ range: SectorRange, _ bases: Bases
  ) throws(JournalError) -> Plan? {
    var plan = Plan(pieces: [], epoch: journal.epochs.enter(), indexVersion: 0, isComplete: false, taint: nil)
    do throws(LMDBError) {
      guard try lookUp(range, in: layer, &plan) else {
        journal.epochs.leave(plan.epoch)
        return nil
      }
    } catch {
      journal.epochs.leave(plan.epoch)
      if error.isDamage { return nil }
      throw JournalError(error)
    }
    guard bases != .none else { return plan }
    do throws(JournalError) {
      if let pieces = try resolved(plan, of: layer, through: bases) {
        plan.pieces = pieces
        return plan
      }
      journal.epochs.leave(plan.epoch)
      return nil
    } catch {
      journal.epochs.leave(plan.epoch)
      throw error
    }
  }

  /// Adds the pieces of `range` in `layer` itself to `plan`, whose epoch the caller has entered. False when it takes an
  /// index that can be believed, and there is none now.
  func lookUp(_ range: SectorRange, in layer: Layer, _ plan: inout Plan) throws(LMDBError) -> Bool {
    // In portions, for writers wait while memory is looked through. What is said of the whole is what was true at the
    // first: a read that parks on account of it looks again if any of it has changed.
    var start = range.start
    repeat {
      let rest = SectorRange(start: start, end: range.end)
      guard let end = try add(rest, of: layer, isFirst: start == range.start, to: &plan) else { return false }
      start = end
    } while start < range.end
    return true
  }

  /// What is looked up in memory at a time: 4 MiB, which is a thousand pieces at most if a guest wrote them, and what
  /// follows of which memory knows nothing.
  private static let portionSectors: UInt64 = 8192

  /// Adds the next portion of `rest`, and returns where that ends. Nil when it takes an index that can be believed, and
  /// there is none now.
  private func add(
    _ rest: SectorRange, of layer: Layer, isFirst: Bool, to plan: inout Plan
  ) throws(LMDBError) -> UInt64? {
    let ledger = journal.ledger
    ledger.lock.lock()
    let quiet = min(rest.end, rest.start + Self.portionSectors)
    let end = quiet == rest.end ? quiet : min(rest.end, ledger.firstKnown(layer, from: quiet) ?? rest.end)
    let portion = SectorRange(start: rest.start, end: end)
    var (pieces, gaps) = ledger.look(layer, portion)
    let absence = layer.absentIsZero ? PieceSource.unwritten : .absent
    if isFirst {
      plan.indexVersion = ledger.indexVersion
      plan.isComplete = layer.isComplete
      plan.taint = layer.taint
      plan.closure = layer.state.closure
      plan.base = layer.base.flatMap { ledger.layers[$0] }
      plan.isDropped = layer.state.isDropped
      plan.attachment = layer.takesSource ? layer.source : nil
      plan.sourceVersion = plan.attachment?.version ?? 0
    }
    ledger.lock.unlock()
    var isTrusted = true
    // After the look, never before: what left memory meanwhile is in this snapshot of the index.
    try gaps.fill { (gap, take) throws(LMDBError) in
      let answer = try journal.index.look(layer.key, gap) { piece, placement in
        take(piece)
        pieces.append(PlannedPiece(range: piece, source: .placed(placement), layer: layer.key))
      }
      isTrusted = isTrusted && answer
    }
    guard isTrusted || gaps.isEmpty else { return nil }
    pieces += gaps.ranges.map { PlannedPiece(range: $0, source: absence, layer: layer.key) }
    pieces.sort { $0.range.start < $1.range.start }
    plan.pieces += pieces
    return portion.end
  }

  /// Fills `target` with `range` as the plan says, released and absent pieces with zeroes (with `absentIsData` not at all: they are
  /// the caller's to fill), and leaves the epoch.
  func copy(
    _ plan: Plan, _ layer: Layer, _ range: ByteRange, absentIsData: Bool = false,
    into target: inout MutableRawSpan
  ) throws(JournalError) -> [ReadRun] {
    precondition(UInt64(target.byteCount) == range.count, "the target has another size than the range")
    journal.ledger.hooks.reach(.readPlanned)
    for piece in plan.pieces {
      guard case .spool(let place) = piece.source, place.kind == .data,
        let part = piece.range.bytes.intersection(range)
      else { continue }
      let position = place.position + (part.start - piece.range.bytes.start)
      // SAFETY: the epoch keeps the record in the ring until it is left below.
      let memory = unsafe journal.ring.file.memory(position, byteCount: Int(part.count))
      unsafe target.copy(
        RawSpan(_unsafeBytes: UnsafeRawBufferPointer(memory)), at: Int(part.start - range.start))
    }
    journal.epochs.leaveRing(plan.epoch)

    let (runs, suspects) = try copyPlaced(plan, layer, range, absentIsData, into: &target)
    for part in suspects {
      var rest = target._mutatingExtracting(Int(part.start - range.start)..<Int(part.end - range.start))
      try journal.index.waitUntilTrusted()
      let found = try self.plan(layer, part.coveringSectors)
      try refuseReleased(found)
      _ = try copy(found, layer, part, into: &rest)
    }
    precondition(
      range.isEmpty || runs.first?.range.start == range.start && runs.last?.range.end == range.end,
      "a plan does not cover what is read")
    return runs
  }

  /// The part of `copy` that takes frames and zeroes; leaves the segments' epoch. Returns the parts for which the index
  /// named the wrong frame as well.
  private func copyPlaced(
    _ plan: Plan, _ layer: Layer, _ range: ByteRange, _ absentIsData: Bool,
    into target: inout MutableRawSpan
  ) throws(JournalError) -> (runs: [ReadRun], suspects: [ByteRange]) {
    // Until every frame is verified and copied: what the plan names may be freed as soon as its readers have left.
    let isCovered = !journal.ledger.hooks.has(.framesReadOutsideEpoch)
    if !isCovered { journal.epochs.leaveSegments(plan.epoch) }
    defer { if isCovered { journal.epochs.leaveSegments(plan.epoch) } }
    journal.ledger.hooks.reach(.framesWanted)
    var runs: [ReadRun] = []
    var suspects: [ByteRange] = []
    for piece in plan.pieces {
      guard let part = piece.range.bytes.intersection(range) else { continue }
      let isZero = piece.source.isZero || piece.source == .absent && !absentIsData
      if isZero || piece.source.isReleased {
        let start = Int(part.start - range.start)
        target.zero(start..<start + Int(part.count))
      } else if case .placed(.frame(let address, let skip)) = piece.source {
        let isRight = try copyFrame(
          piece.range, address, skip, piece.layer, part, at: Int(part.start - range.start), into: &target)
        if !isRight { suspects.append(part) }
      }
      if let last = runs.last, last.isZero == isZero {
        runs[runs.count - 1].range.end = part.end
      } else {
        runs.append(ReadRun(range: part, isZero: isZero))
      }
    }
    return (runs, suspects)
  }
}
