internal import Bytes
internal import Extents

/// How far the segments have been worked into the index, or published.
struct AppliedPosition: Equatable, Sendable {
  /// Segment and offset behind the last group; segment 0 before the first.
  var segment: UInt64 = 0
  var offset: UInt64 = 0
  var batch: UInt64 = 0
  var sequence: UInt64 = 0
  var chain: UInt64 = 0
}

/// A batch that lies in a segment, as readers and the index need it.
struct PublishedBatch: Sendable {
  var end: AppliedPosition
  var extents: [(LayerKey, SectorRange, Placement)]
  /// Records without extent, in sequence order.
  var records: [Record]
  var framedByteCount: UInt64 = 0
  var storedByteCount: UInt64 = 0
}

/// What one index commit adds.
struct IndexDelta: Sendable {
  var end: AppliedPosition
  var records: [Record]
  var extents: [(LayerKey, ExtentMap<Placement>)]
}
