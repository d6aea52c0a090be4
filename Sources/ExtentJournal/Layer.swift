internal import Bytes
internal import Extents

/// Where the content of a run of sectors is while it is in the ring.
struct SpoolPlace: ExtentValue {
  var sequence: UInt64
  /// Data, zero or trim.
  var kind: RecordKind
  /// Position in the ring of the run's first byte (data only).
  var position: UInt64

  func advanced(by sectors: UInt64) -> SpoolPlace {
    SpoolPlace(sequence: sequence, kind: kind, position: position + sectors * Sector.byteCount)
  }
}

/// A committed record that is not yet in a segment.
struct PendingRecord: Sendable {
  var record: Record
  /// Where it lies in the ring.
  var slot: SpoolSlot
  /// When it was committed (nanoseconds of MonotonicClock).
  var since: UInt64
}

/// One generation of one disk, as far as memory knows it. Guarded by the ledger's lock.
final class Layer: @unchecked Sendable {
  // Sendable: constants, and variables guarded by the commit lock; only the ledger changes them.
  let key: LayerKey
  let kind: GenerationKind
  let name: String
  var isComplete = false
  var taint: String?
  /// Whether the record that says so has its sequence. (A taint is marked in memory and in the ring before.)
  var hasTaintRecord = false
  var spooled = ExtentMap<SpoolPlace>()
  var active = ExtentMap<Placement>()
  var flushing = ExtentMap<Placement>()
  var parked = ParkedReads()
  /// The disk that the generation's job protects, if it can be read.
  var source: SourceAttachment?
  /// The job that was once seen to live, as recorded.
  var seenJob: String?
  /// The job whose speed was lowered, and its speed before, as recorded; nil when it was restored.
  var loweredJob: JobSpeed?

  init(key: LayerKey, kind: GenerationKind, name: String) {
    self.key = key
    self.kind = kind
    self.name = name
  }

  /// Whether what is absent may be read from the source.
  var takesSource: Bool {
    switch kind {
    case .full, .checkpoint: true
    }
  }

  /// Whether the source, or its state, is not what it was at the look that `found` came from.
  func isSourceNews(since found: Disk.Plan) -> Bool {
    let attachment = takesSource ? source : nil
    return attachment !== found.attachment || attachment?.version ?? 0 != found.sourceVersion
  }

  init(state: LayerState) {
    key = state.key
    kind = state.kind
    name = state.name
    isComplete = state.isComplete
    taint = state.taint
    hasTaintRecord = state.taint != nil
    seenJob = state.seenJob
    loweredJob = state.loweredJob
  }
}

/// What the index keeps of a generation besides its extents.
struct LayerState: Sendable {
  var key: LayerKey
  var kind: GenerationKind
  var base: UInt32 = 0
  var name: String
  var isComplete = false
  var taint: String?
  /// The job that was once seen to live.
  var seenJob: String?
  /// The job whose speed is to be restored, and to what.
  var loweredJob: JobSpeed?
}
