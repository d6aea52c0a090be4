internal import BlockFile
internal import Bytes
internal import Glibc
internal import LMDB
internal import Threads

// A journal, and the stages in the order a write meets them:
//
//   Write/    WriteSlot        a payload is received straight into the spool; edges, retries and zeroes are settled
//   Spool/    SpoolRing        room in the ring; one store makes the record true
//             Ledger           sequence, visible map, who waits: then the write is acknowledged
//   Spill/    Spiller          batches: what counts of them is packed into frames and compressed
//   Segment/  SegmentWriter    a batch becomes a group of a segment, and durable
//   Index/    Indexer          what is durable becomes findable for good
//   Read/     DiskReader       the way back: spool, memory, index, frames; reads that wait
//   Generation/ SealRecord     what a disk held at one moment is closed, named and vouched for
//   Upkeep/   Upkeep           what nobody needs any more is given back
//   History/  History          what the past still needs is held, and read
//   Replay/   Replay           a generation as a raw file
//
// Recovery runs the same way from the other end when a journal is opened.

/// A journal directory, opened for writing by this process.
///
/// All methods may be called from any thread.
package final class Journal: @unchecked Sendable {
  // Sendable: constants; `lockFile` is only ever released.
  let options: JournalOptions
  let log: JournalLog
  let ledger = Ledger()
  let epochs = ReadEpochs()
  let ring: SpoolRing
  let store: SegmentStore
  let writer: SegmentWriter
  let index: Index
  let history: History
  let pastIndexes: PastIndexes
  let frames: FrameReader
  let readAhead: ReadAhead
  let sourceBlocks = SourceBlocks()
  let sourceCounters = SourceCounters()
  let regionLocks = RegionLocks()
  let acknowledgements = LatencyHistogram()
  /// Held while a generation of a disk is opened, sealed or ended, I/O included: they order these and guard nothing else.
  /// Several disks share one; a seal, which may take long, holds up few others.
  private let generationTurns = (0..<64).map { _ in Lock() }
  let privateMemory: PrivateMemory
  let admission: Admission
  private let poison: (JournalError) -> Void
  let spiller: Spiller
  let indexer: Indexer
  let upkeeper: Upkeep
  private let timekeeper: Timekeeper
  private let directory: JournalDirectory
  private let superblock: JournalSuperblock
  private let ringIsLost: Bool
  /// What recovery found damaged.
  let damage: [JournalDamage]
  /// Layers that may miss something that was acknowledged, and why.
  private let incomplete: [LayerKey: String]
  /// What recovery lost and nobody can name.
  private let firstLoss: String?
  private let lockFile: FileLock

  /// Smallest spool ring in bytes.
  package static let spoolBytesMin: UInt64 = 16 << 20

  /// Largest disk in bytes: a frame says sectors in 48 bits.
  package static let diskBytesMax: UInt64 = 512 << 48

  /// Opens (or creates) the journal in `directory`, recovers what a crash left, and starts its threads.
  ///
  /// Throws `.inUse` when another process has it, `.damaged` when it cannot be trusted or its spool is lost,
  /// `.noSpace` and `.failed` for what the system refuses.
  package static func open(
    _ directory: String, options: JournalOptions, host: JournalHost = JournalHost(), log: @escaping JournalLog
  ) throws(JournalError) -> Journal {
    let place = JournalDirectory(path: directory)
    try place.create()
    let lock = try place.lock()
    let journal = try Journal(place, lock, options, host, log)
    try journal.start()
    return journal
  }

  private init(
    _ directory: JournalDirectory, _ lock: consuming FileLock, _ options: JournalOptions, _ host: JournalHost,
    _ log: @escaping JournalLog
  ) throws(JournalError) {
    var host = host
    if let quota = options.quota {
      host.segmentBytesMax = min(host.segmentBytesMax, quota.segmentBytesMax)
      host.indexPagesMax = min(host.indexPagesMax, quota.indexPagesMax)
    }
    let found = try directory.readSuperblock()
    guard found.map({ $0.use == .all }) ?? true else {
      throw JournalError(
        .damaged,
        "the journal in \(directory.path) was written by a newer version of spillway; this one can replay it, but not serve it"
      )
    }
    let boot = host.bootID.flatMap { JournalUUID($0) } ?? JournalDirectory.bootID()
    let recovery = Recovery(directory: directory, superblock: found, boot: boot, options: options, log: log)
    let uuid = found?.journal ?? .random()
    store = SegmentStore(
      files: host.segments ?? POSIXDirectory(path: directory.segmentsPath), journal: uuid)
    if found == nil { try Self.refuseOrphans(store, directory) }
    let (oldRing, ringIsLost) = try recovery.recoverRing()
    let opened = try recovery.openIndex(journal: uuid, Index.Settings(host))
    index = opened.index
    index.onAbandon = { [ledger] error in
      log(.error, "index: \(error); it will be built again from the segments")
      ledger.lock.withLock { ledger.progress.broadcast() }
    }
    ledger.load(
      disks: opened.catalog.disks, layers: opened.catalog.layers, loss: opened.loss, applied: opened.applied)
    ledger.hooks = host.hooks
    pastIndexes = PastIndexes(of: directory)
    history = History(
      options.history, stored: try Self.horizon(opened, store, index), applied: opened.applied.sequence)
    let replayed = try recovery.replaySegments(
      store, into: ledger, index, history, journal: uuid, ring: oldRing)
    history.note(ledger.indexed)
    oldRing?.hasFailed = false

    privateMemory = PrivateMemory(
      byteCount: host.privateBytesMax, patienceNanoseconds: host.stalledSenderNanoseconds)
    let reserve = SpaceReserve(
      store.files, byteCount: 2 * host.segmentBytesMax, ownedBytesMin: host.reserveFileBytesMin)
    admission = Admission(
      files: store.files, ledger: ledger, whenFull: options.whenFull,
      retryNanoseconds: host.fullDiskRetryNanoseconds, quota: options.quota,
      owned: Self.owned(store, index, pastIndexes), reserveFile: reserve, log: log)
    let file: SpoolFile
    if let oldRing { file = oldRing } else { file = try Self.makeRing(options, host, directory, uuid, log) }
    var kept: (headers: [SpoolHeader], dead: [UInt64]) = ([], [])
    if let oldRing { kept = recovery.replayRing(oldRing, into: ledger) }
    admission.add(ledger.pendingAdmittedByteCount)
    ring = SpoolRing(file: file, recovered: kept.headers) { [ledger] in
      ledger.lock.withLock { ledger.work.signal() }
    }
    ring.retire(kept.dead)
    ledger.skipSequences(through: replayed.usedSequence)
    damage = Self.name(replayed.damage, ledger)
    incomplete = replayed.incomplete
    firstLoss = replayed.damage.first { $0.isUnknown }?.sentence
    superblock = JournalSuperblock(
      journal: uuid, createdNanoseconds: found?.createdNanoseconds ?? WallClock.nanoseconds(), isClean: false,
      ring: file.uuid, boot: boot, ringPath: file.path,
      adminAddress: options.adminAddress ?? "")
    writer = SegmentWriter(
      store: store, after: ledger.published, segmentBytesMax: host.segmentBytesMax)
    frames = FrameReader(store: store)
    file.hooks = host.hooks
    writer.hooks = host.hooks
    epochs.ring.hooks = host.hooks
    epochs.segments.hooks = host.hooks
    readAhead = ReadAhead(frames: frames)
    // Rule F: the first error stays, whoever waits is told, and nothing is tried again.
    let poison: (JournalError) -> Void = { [ledger, ring, index] error in
      ring.file.hasFailed = true
      log(.error, "the journal takes no more writes: \(error.message)")
      for read in ledger.fail(error) { read.wake(.retry) }
      ring.close(error)
      index.stopRebuilding(error)
    }
    self.poison = poison
    spiller = Spiller(
      ledger: ledger, ring: ring, admission: admission, writer: writer, epochs: epochs.ring,
      coreCount: Int(sysconf(Int32(_SC_NPROCESSORS_ONLN))),
      retryNanoseconds: host.fullDiskRetryNanoseconds, markNanoseconds: host.idleMarkNanoseconds,
      refusesWhenFull: options.whenFull == .enospc, log: log,
      poison: poison)
    indexer = Indexer(
      ledger: ledger, writer: writer, store: store, index: index, history: history, journal: uuid, host: host,
      log: log,
      poison: poison, waitForReaders: { [epochs] in epochs.ring.waitForEarlierReaders() })
    upkeeper = Upkeep(
      ledger: ledger, store: store, writer: writer, indexer: indexer, spiller: spiller, history: history,
      pastIndexes: pastIndexes, epochs: epochs.segments,
      directory: directory.path, host: host, space: (reserve, admission), log: log, poison: poison)
    admission.upkeep = upkeeper
    timekeeper = Timekeeper(ledger: ledger, timeoutNanoseconds: options.readTimeoutNanoseconds)
    self.directory = directory
    self.options = options
    self.log = log
    self.ringIsLost = ringIsLost
    lockFile = lock
    do throws(JournalError) {
      try directory.writeSuperblock(superblock)
    } catch {
      if oldRing == nil { file.remove() }
      throw error
    }
  }

  private func start() throws(JournalError) {
    try spiller.start()
    try indexer.start()
    try timekeeper.start()
    try upkeeper.start()
    let begun = try finishCreations()
    try finishCheckpoints()
    for layer in ring.file.taints {
      try taintAgain(layer, "a write contradicted what had arrived, or was dropped")
    }
    if ringIsLost { try taintWhatLostItsSpool() }
    for found in damage.prefix(Self.damageLinesMax) { log(.error, found.message) }
    if damage.count > Self.damageLinesMax {
      log(.error, "\(damage.count - Self.damageLinesMax) more places are damaged; the status lists all")
    }
    if let lost = firstLoss, ledger.lock.withLock({ ledger.loss == nil }) {
      try append(.taint, .journal, body: Array(lost.utf8))
    }
    // Of a disk without generation a crash may have kept the beginning, or the loss may have swallowed it.
    if let lost = ledger.lock.withLock({ ledger.loss }) {
      for layer in begun { try taintAgain(layer, "\(lost), and what they held is not known") }
    }
    for (layer, reason) in incomplete.sorted(by: { $0.key < $1.key }) {
      try taintAgain(layer, "\(reason), and what they held is not known")
    }
  }

  private static let damageLinesMax = 50

  /// The directory, and who the journal is.
  var identity: (directory: JournalDirectory, superblock: JournalSuperblock) { (directory, superblock) }

  /// See `uuid`.
  var superblockUUID: JournalUUID { superblock.journal }

  /// The identity of the journal.
  package var uuid: String { superblock.journal.description }

  // MARK: - Records

  /// Writes a record without payload of sectors through the spool, like any other.
  func append(_ kind: RecordKind, _ layer: LayerKey, body: [UInt8] = []) throws(JournalError) {
    let slot = try ring.reserve(
      kind, layer, SectorRange(start: 0, end: 0), payloadByteCount: body.count, isUrgent: kind == .taint)
    if !body.isEmpty {
      // SAFETY: the slot is ours until it is committed.
      let memory = unsafe ring.file.memory(slot.payloadPosition, byteCount: body.count)
      unsafe memory.copyBytes(from: body)
    }
    let woken: [ParkedRead]
    do throws(JournalError) {
      woken = try ledger.commit(slot, of: ring.file, kind, layer, SectorRange(start: 0, end: 0), body: body)
    } catch {
      ring.abandon(slot)
      throw error
    }
    for read in woken { read.wake(.retry) }
  }

  /// Ends a reservation that was never committed.
  func giveUp(_ slot: SpoolSlot) {
    ring.abandon(slot)
    admission.release(slot.admittedByteCount)
  }

  func name(of key: LayerKey) -> String {
    let (disk, generation) = ledger.lock.withLock {
      (ledger.disks[key.disk]?.name, ledger.layers[key]?.state.title)
    }
    let title = generation ?? String(key.generation.number)
    return "generation \(title) of disk \(disk ?? String(key.disk.number))"
  }

  /// Runs `body` when no other generation of the disk is being opened, sealed or ended.
  func inGenerationTurn<Result>(
    of disk: DiskID, _ body: () throws(JournalError) -> Result
  ) throws(JournalError) -> Result {
    try generationTurns[Int(disk.number) % generationTurns.count].withLock(body)
  }

  // MARK: - Durability

  /// Returns when everything acknowledged before the call survives power loss (rule E).
  package func flush() throws(JournalError) {
    let batch = try spillAll()
    do throws(FileError) {
      if !ledger.hooks.has(.flushWithoutSync) { try writer.sync(through: batch) }
    } catch {
      let failure = JournalError(error)
      poison(failure)
      throw failure
    }
    spiller.noteFlush()
  }

  /// Returns when everything acknowledged so far is written to segments, though not yet durable.
  package func spill() throws(JournalError) { _ = try spillAll() }

  /// Waits until everything acknowledged so far is in a segment; returns the batch that holds the last of it.
  private func spillAll() throws(JournalError) -> UInt64 {
    ledger.lock.lock()
    defer { ledger.lock.unlock() }
    // Also when nothing is left to spill: a journal that has failed promises nothing any more.
    if let failure = ledger.failure { throw failure }
    let target = ledger.lastSequence
    ledger.wantedThrough = max(ledger.wantedThrough, target)
    ledger.work.signal()
    while ledger.spilledThrough < target {
      if let failure = ledger.failure { throw failure }
      if ledger.isClosing, ledger.spillStall != nil { throw .closing }
      ledger.progress.wait()
    }
    return ledger.published.batch
  }

  /// As `flush`, and everything is in the index, so that another process can read all of it.
  package func checkpoint() throws(JournalError) {
    try spill()
    try indexer.run()
  }

  // MARK: - The end

  /// Wakes every parked read; reads that would wait fail from now on. First step of a shutdown.
  package func stopWaiting() {
    for source in ledger.lock.withLock({ ledger.layers.values.compactMap(\.source) }) { source.end(.closing) }
    for read in ledger.beginClosing() { read.wake(.retry) }
    index.stopWaiting()
    // Writers that wait for room on a full disk would wait for ever. (Those that wait for space look for themselves.)
    if ledger.lock.withLock({ ledger.spillStall != nil }) { ring.close(.closing) }
  }

  /// Spills, syncs, commits the index, marks the journal as closed cleanly and ends the threads. No other call may
  /// run or follow.
  ///
  /// On an error the ring stays where it is, and the next open takes over what it holds.
  package func close() throws(JournalError) {
    stopWaiting()
    upkeeper.end()
    var failure: JournalError?
    do throws(JournalError) {
      try checkpoint()
    } catch {
      failure = error.kind == .closing ? ledger.lock.withLock { ledger.stall } ?? error : error
    }
    endThreads(spilling: failure == nil)
    if let failure { throw failure }
    try sealLastSegment()
    try upkeeper.close()
    ledger.hooks.reach(.closeCommitted)
    var clean = superblock
    clean.isClean = true
    clean.ring = .zero
    clean.ringPath = ""
    clean.adminAddress = ""
    try directory.writeSuperblock(clean)
    ledger.hooks.reach(.closeMarked)
    ring.file.remove()
  }

  /// Ends the segment with its directory, durably. Where there is no room for it recovery does without.
  private func sealLastSegment() throws(JournalError) {
    do throws(FileError) {
      try writer.seal()
      try writer.syncAll()
    } catch {
      guard error.isNoSpace else { throw JournalError(error) }
      log(.warning, "no room for the directory of the last segment: \(error)")
    }
  }

  /// Lets go of the journal as it is, like a process that dies: nothing is spilled, synced or marked. The next open
  /// recovers it. No other call may run or follow.
  package func abandon() {
    stopWaiting()
    upkeeper.end()
    endThreads(spilling: false)
  }

  private func endThreads(spilling: Bool) {
    spiller.end(spilling: spilling)
    indexer.end()
    timekeeper.end()
    readAhead.end()
  }
}
