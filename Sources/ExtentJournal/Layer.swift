internal import Bytes
internal import Extents

/// Where the content of a run of sectors is while it is in the ring.
struct SpoolPlace: ExtentValue {
  var sequence: UInt64
  /// Data, zero, trim, base or release.
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
  /// The layer that shows through outside the bitmap. Others may come in its place, when what it held is in the index.
  var base: LayerKey?
  /// Whether it was dropped and the index has followed: its rows may go once earlier readers have left.
  var isSettled = false
  /// Whether its rows are on their way out.
  var isBuried = false
  /// The checkpoint that was opened on it and takes the writes of its device disk from then on.
  var successor: Layer?
  var state: LayerState
  /// Whether the record that says so has its sequence. (A taint is marked in memory and in the ring before.)
  var hasTaintRecord = false
  /// Whether something came since the journal was opened, or was read from its segments then.
  var hasArrivals = false
  /// Whether writes to what was released are dropped. On a snapshot disk they always are.
  var keepsTombstones = false
  var spooled = ExtentMap<SpoolPlace>()
  var active = ExtentMap<Placement>()
  var flushing = ExtentMap<Placement>()
  var parked = ParkedReads()
  /// The disk that the generation's job protects, if it can be read.
  var source: SourceAttachment?

  var isComplete: Bool { state.isComplete }
  var taint: String? { state.taint }

  /// Whether what is absent was never written and reads as zeroes for good: of a checkpoint that takes no more writes.
  var absentIsZero: Bool { kind == .checkpoint && (successor != nil || state.isClosed) }

  /// Whether what is absent may be read from the source: not before it is known what is outside the bitmap, where the
  /// guest overwrites without telling anybody.
  var takesSource: Bool {
    if state.isClosed || successor != nil { return false }
    return kind != .incremental || state.bitmapIsWhole
  }

  /// Whether the source, or its state, is not what it was at the look that `found` came from.
  func isSourceNews(since found: Disk.Plan) -> Bool {
    let attachment = takesSource ? source : nil
    return attachment !== found.attachment || attachment?.version ?? 0 != found.sourceVersion
  }

  init(state: LayerState) {
    key = state.key
    kind = state.kind
    base = state.baseKey
    self.state = state
    hasTaintRecord = state.taint != nil
    isSettled = state.isDropped
  }
}
