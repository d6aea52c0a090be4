internal import Bytes

/// A record that is to be committed: what it says, and the reservation in which it lies.
struct RecordDraft {
  var slot: SpoolSlot
  var kind: RecordKind
  var layer: LayerKey
  var range = SectorRange(start: 0, end: 0)
  var body: [UInt8] = []
  /// Whether it is data, all of it zeroes.
  var allZero = false
}

extension RecordKind {
  /// Whether the record sets sectors (data, zero, trim, base, release).
  var hasExtent: Bool { rawValue <= RecordKind.release.rawValue }

  /// Whether a client of an ingest export writes it.
  var isWrite: Bool { self == .data || self == .zero || self == .trim }

  /// Whether what reads of its generation wait for may never come after it.
  var settlesWaits: Bool {
    self == .complete || self == .taint || self == .seal || self == .end || self == .drop
  }
}
