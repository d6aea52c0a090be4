internal import Threads

/// What a journal is doing, for people and for `spillway status --json`. A snapshot: fields are taken one
/// after the other while the journal works.
package struct JournalStatus: Codable, Sendable {
  /// Identity of the journal.
  package var uuid: String
  /// Whether a daemon has it open.
  package var isServed = false
  /// Whether it was closed cleanly; says nothing while it is served.
  package var wasClosed = false
  /// Last sequence given out.
  package var lastSequence: UInt64 = 0
  /// Last sequence written to segments, durable or not.
  package var spilledThrough: UInt64 = 0
  /// Last sequence that survives power loss.
  package var durableThrough: UInt64 = 0
  /// Bytes of the spool ring that hold acknowledged data not yet spilled.
  package var spoolUsedBytes: UInt64 = 0
  /// Size of the spool ring in bytes.
  package var spoolBytes: UInt64 = 0
  /// Segment files.
  package var segmentCount: UInt64 = 0
  /// What the segment files take on disk.
  package var segmentBytes: UInt64 = 0
  /// What the index takes on disk.
  package var indexBytes: UInt64 = 0
  /// What of the segments is stored for what some generation shows, in bytes, as of the last commit of the index; nil when
  /// the index cannot be read.
  package var liveBytes: UInt64?
  /// What the filesystem of the segments has free for everybody, in bytes; nil when it does not say.
  package var freeBytes: UInt64?
  /// What is kept free for records without payload, for upkeep and for an index that is built anew, in bytes; nil when nobody
  /// serves the journal.
  package var reserveBytes: UInt64?
  /// What upkeep has done since the journal was opened; nil when nobody serves it.
  package var upkeep: UpkeepReport?
  /// What the journal may take on disk, in bytes; nil when nothing was said.
  package var quotaBytes: UInt64?
  /// What more can be taken from writers, in bytes; nil when nobody serves the journal.
  package var availableBytes: UInt64?
  /// In how many seconds that is used up, at the pace of the last minute; nil when it does not grow.
  package var secondsToFull: UInt64?
  /// The oldest end of a batch that can be read exactly, as of the last commit of the index; nil while the index is being built
  /// again.
  package var horizonSequence: UInt64?
  /// When that was passed, in nanoseconds since 1970.
  package var horizonNanoseconds: UInt64?
  /// What segments hold that only the past shows, in bytes, as of the last commit of the index.
  package var historyBytes: UInt64?
  /// Payload bytes that clients wrote since the journal was opened; a payload of zeroes counts as zeroed.
  package var writtenBytes: UInt64 = 0
  /// How many of `writtenBytes` reached frames; what was overwritten before never does.
  package var framedBytes: UInt64 = 0
  /// Bytes of the frames that hold `framedBytes`.
  package var storedBytes: UInt64 = 0
  /// Bytes that clients zeroed, trimmed or wrote as zeroes since the journal was opened.
  package var zeroedBytes: UInt64 = 0
  /// Bytes of disks that readers released since the journal was opened.
  package var releasedBytes: UInt64 = 0
  /// Reads parked now.
  package var parkedReads: UInt64 = 0
  /// Reads that were ever parked since the journal was opened.
  package var waitedReads: UInt64 = 0
  /// The longest time that any read was parked since the journal was opened.
  package var longestWaitNanoseconds: UInt64 = 0
  /// How long writes and zeroes of ingest exports took since the journal was opened, from the request's first byte to the
  /// reply: what a guest waits for.
  package var acknowledgements = LatencySummary()
  /// Reads of views that took bytes from a source since the journal was opened.
  package var readsFromSource: UInt64 = 0
  /// Reads of views that needed no source.
  package var readsFromJournal: UInt64 = 0
  /// Bytes that were read from sources.
  package var sourceBytes: UInt64 = 0
  /// Reads of views that failed because a source could not be read, or its job not be confirmed.
  package var sourceErrors: UInt64 = 0
  /// Whether spilling is stopped by a full disk; it goes on when space returns.
  package var isStalled = false
  /// The error that poisoned the journal, if one did.
  package var failure: String?
  /// What was found damaged when the journal was opened; nil when nothing was.
  package var damage: [JournalDamage]?
  /// By name.
  package var disks: [DiskStatus] = []

  init(uuid: String) { self.uuid = uuid }
}

/// One disk in a `JournalStatus`.
package struct DiskStatus: Codable, Sendable {
  /// Unique within the journal.
  package var name: String
  /// Size in bytes, a multiple of 512.
  package var byteCount: UInt64
  /// `device` or `snapshot`.
  package var mode: String
  /// Oldest first.
  package var generations: [GenerationStatus]
}

/// One generation of a disk in a `JournalStatus`.
package struct GenerationStatus: Codable, Sendable {
  /// The name, or nil while it has none (its seal names it).
  package var name: String?
  /// Counts within the disk, from 1, in the order of opening.
  package var number: UInt32
  /// `full`, `incremental`, `cow` or `checkpoint`.
  package var kind: String
  /// The generation that an incremental one falls to.
  package var base: String?
  /// What its owner knows it by; nil when it did not say.
  package var tag: String?
  /// `arriving`, `complete`, `pre-sealed`, `sealing` (of a checkpoint, while the next one takes the writes), `sealed` or
  /// `ended`.
  package var state: String
  /// Why it was ended; nil when it was not.
  package var endReason: String?
  /// Whether its stream has ended.
  package var isComplete: Bool
  /// What is known of the job behind its source: `awaited`, `alive`, `dead` or `unknown`; nil when it has no source, or none
  /// that is read.
  package var source: String?
  /// Whether it is broken, for good.
  package var tainted: Bool
  /// Why it is broken; nil when it is not.
  package var taintReason: String?

  init(_ state: LayerState, base: String?, isNewest: Bool, source: String?) {
    self.source = source
    name = state.name.isEmpty ? nil : state.name
    number = state.key.generation.number
    kind = state.kind.word
    self.base = base
    tag = state.tag.isEmpty ? nil : state.tag
    self.state = Self.word(state, isNewest)
    endReason = state.end
    isComplete = state.isComplete
    tainted = state.taint != nil
    taintReason = state.taint
  }

  private static func word(_ state: LayerState, _ isNewest: Bool) -> String {
    if state.seal != nil { return "sealed" }
    if state.end != nil { return "ended" }
    if state.kind == .checkpoint, !isNewest { return "sealing" }
    if state.preSeal != nil { return "pre-sealed" }
    return state.isComplete ? "complete" : "arriving"
  }
}

extension DiskStatus {
  /// The disks of a catalog, by name.
  static func list(
    _ disks: [DiskID: DiskBody], _ layers: [LayerState], source: (LayerKey) -> String? = { _ in nil }
  ) -> [DiskStatus] {
    disks.sorted { $0.value.name < $1.value.name }.map { (id, body) in
      let own = layers.filter { $0.key.disk == id }.sorted { $0.key < $1.key }
      let generations = own.filter { !$0.isHidden }.map {
        GenerationStatus(
          $0, base: base(of: $0, in: own), isNewest: $0.key == own.last?.key, source: source($0.key))
      }
      return DiskStatus(
        name: body.name, byteCount: body.byteCount, mode: body.mode.rawValue, generations: generations)
    }
  }

  /// The next one that lists show: those between have no name, and are merged soon.
  private static func base(of state: LayerState, in layers: [LayerState]) -> String? {
    var next = state.baseKey
    while let key = next {
      guard let below = layers.first(where: { $0.key == key }) else { return String(key.generation.number) }
      guard below.isHidden else { return below.title }
      next = below.baseKey
    }
    return nil
  }
}

extension JournalStatus {
  mutating func noteHorizon(_ horizon: Horizon?, _ historyByteCount: UInt64) {
    horizonSequence = horizon?.sequence
    horizonNanoseconds = horizon?.timeNanoseconds
    historyBytes = historyByteCount
  }
}

extension Journal {
  /// What only the past shows; 0 when the index is not to be believed.
  private func historyByteCount() throws(JournalError) -> UInt64 {
    guard !index.isAbandoned else { return 0 }
    return try index.current.pastByteCount(through: ledger.lock.withLock { ledger.indexed }) {
      store.allocatedByteCount(ofFresh: $0)
    }
  }

  /// What the journal is doing now.
  package func status() throws(JournalError) -> JournalStatus {
    var status = JournalStatus(uuid: uuid)
    status.isServed = true
    status.spoolUsedBytes = ring.usedByteCount
    status.spoolBytes = ring.file.capacity
    status.indexBytes = index.usedByteCount
    (status.segmentCount, status.segmentBytes) = try store.usage()
    status.liveBytes = liveStoredBytes
    status.freeBytes = store.freeByteCount
    status.reserveBytes = admission.reserveByteCount
    status.upkeep = upkeeper.doneSoFar
    status.quotaBytes = options.quota?.byteCount
    let outlook = admission.outlook
    status.availableBytes = outlook.availableByteCount
    status.secondsToFull = outlook.secondsToFull
    status.noteHorizon(history.horizon, try historyByteCount())
    let durableBatch = writer.durability.batch
    ledger.lock.lock()
    defer { ledger.lock.unlock() }
    status.lastSequence = ledger.lastSequence
    status.spilledThrough = ledger.spilledThrough
    status.durableThrough =
      durableBatch >= ledger.published.batch ? ledger.spilledThrough : ledger.indexed.sequence
    let counters = ledger.counters
    status.writtenBytes = counters.writtenBytes
    status.framedBytes = counters.framedBytes
    status.storedBytes = counters.storedBytes
    status.zeroedBytes = counters.zeroedBytes
    status.releasedBytes = counters.releasedBytes
    status.parkedReads = UInt64(counters.parkedReads)
    status.waitedReads = counters.waitedReads
    status.longestWaitNanoseconds = counters.longestWaitNanoseconds
    status.acknowledgements = acknowledgements.summary
    status.readsFromSource = sourceCounters.readsFromSource.count
    status.readsFromJournal = sourceCounters.readsFromJournal.count
    status.sourceBytes = sourceCounters.sourceBytes.count
    status.sourceErrors = sourceCounters.sourceErrors.count
    status.isStalled = ledger.stall != nil
    status.failure = ledger.failure?.message
    status.damage = damage.isEmpty ? nil : damage
    let read = ledger.layers.values.filter { $0.source != nil && $0.takesSource }
    status.disks = DiskStatus.list(ledger.disks, ledger.layers.values.map(\.state)) { key in
      read.first { $0.key == key }?.source?.word
    }
    return status
  }
}
