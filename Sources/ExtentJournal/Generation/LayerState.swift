internal import Bytes

/// What is known of a generation besides its extents: what its records have said of it, in order.
///
/// Memory and the index keep the same, so that they cannot come to different ends.
struct LayerState: Sendable, Equatable {
  var key: LayerKey
  var kind: GenerationKind
  /// The number of the generation that shows through outside the bitmap; 0: none.
  var base: UInt32 = 0
  var name: String
  var tag = ""
  /// Whether the stream has ended; a generation that is sealed or ended is complete, too.
  var isComplete = false
  var taint: String?
  /// Whether everything outside the bitmap has been recorded.
  var bitmapIsWhole = false
  /// The body of the last pre-seal.
  var preSeal: [UInt8]?
  /// The body of the seal.
  var seal: [UInt8]?
  /// Why it was ended without a seal.
  var end: String?
  /// Whether it was dropped: nobody sees it any more.
  var isDropped = false
  /// Whether it has taken in, by reference, what it showed of its base.
  var hasMerged = false
  /// The job that was once seen to live.
  var seenJob: String?
  /// The job whose speed is to be restored, and to what.
  var loweredJob: JobSpeed?

  /// Why a generation was ended that never was more than a place for a first write: nobody need see it.
  static let unused = "unused"

  /// Why a checkpoint was ended that took no more writes and got no seal. The one after it stands on it until that is closed.
  static let unsealed = "its seal was not finished"

  /// Whether it is a checkpoint of which nobody was told, and which others will take in.
  var isUnsealed: Bool { kind == .checkpoint && end == Self.unsealed && name.isEmpty && !isDropped }
  /// Whether nothing can be written to it any more.
  var isClosed: Bool { seal != nil || end != nil }
  /// Whether it is of no interest to anybody.
  var isHidden: Bool { isDropped || isUnsealed || end == Self.unused && name.isEmpty }
  /// The layer that shows through.
  var baseKey: LayerKey? {
    base == 0 ? nil : LayerKey(disk: key.disk, generation: GenerationID(number: base))
  }
  /// What people call it.
  var title: String { name.isEmpty ? String(key.generation.number) : name }

  /// Why what has not arrived never will, as the end of a sentence; nil while it may.
  var closure: String? {
    if let end { return "the generation was ended: \(end)" }
    if seal != nil { return "the generation is sealed" }
    return kind == .cow && isComplete ? "its job has ended" : nil
  }

  init(key: LayerKey, kind: GenerationKind, base: UInt32 = 0, name: String, tag: String = "") {
    self.key = key
    self.kind = kind
    self.base = base
    self.name = name
    self.tag = tag
  }

  /// The state that `record`, a begin record, opens; nil when it says nothing that makes sense.
  init?(begunBy record: Record) {
    guard record.kind == .begin, let body = BeginBody(record.body) else { return nil }
    self.init(key: record.layer, kind: body.kind, base: body.base, name: body.name, tag: body.tag)
  }

  /// Takes in what `record`, which speaks of this generation, says. Twice is as once.
  mutating func apply(_ record: Record) {
    switch record.kind {
    case .complete:
      isComplete = true
    case .taint:
      if taint == nil { taint = String(decoding: record.body, as: UTF8.self) }
    case .bitmapWhole:
      bitmapIsWhole = true
    case .preSeal:
      preSeal = record.body
    case .seal:
      seal = record.body
      isComplete = true
      if name.isEmpty, let given = SealRecord(record.body)?.name { name = given }
    case .end:
      end = String(decoding: record.body, as: UTF8.self)
      isComplete = true
    case .source:
      seenJob = String(decoding: record.body, as: UTF8.self)
    case .drop:
      drop()
    case .speed:
      if let speed = JobSpeed(record.body) { loweredJob = speed.pending }
    // Who stands on what changes when the index has followed (Ledger.finishIndexing).
    case .data, .zero, .trim, .base, .release, .disk, .begin, .merge, .removed:
      break
    }
  }

  /// The newest of `states` that is not hidden, or the newest, if there is any.
  static func newest(_ states: [LayerState]) -> LayerState? {
    let sorted = states.filter { !$0.isDropped }.sorted { $0.key < $1.key }
    return sorted.last { !$0.isHidden } ?? sorted.last
  }
}
