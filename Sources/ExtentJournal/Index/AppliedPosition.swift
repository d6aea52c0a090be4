internal import Bytes
package import Extents

/// How far the segments have been worked into the index, or published.
package struct AppliedPosition: Equatable, Sendable {
  /// Segment and offset behind the last group; segment 0 before the first.
  var segment: UInt64 = 0
  var offset: UInt64 = 0
  /// The last batch; 0 before the first.
  package var batch: UInt64 = 0
  /// The last sequence of that batch.
  package var sequence: UInt64 = 0
  var chain: UInt64 = 0

  /// Before the first batch.
  package init() {}

  init(segment: UInt64, offset: UInt64, batch: UInt64, sequence: UInt64, chain: UInt64) {
    self.segment = segment
    self.offset = offset
    self.batch = batch
    self.sequence = sequence
    self.chain = chain
  }
}

/// A batch that lies in a segment, as readers and the index need it.
struct PublishedBatch: Sendable {
  var end: AppliedPosition
  /// The lowest sequence of what it holds; 0 when nothing says it.
  var firstSequence: UInt64 = 0
  var extents: [(LayerKey, SectorRange, Placement)]
  /// Records without extent, in sequence order.
  var records: [Record]
  var framedByteCount: UInt64 = 0
  var storedByteCount: UInt64 = 0
}

/// What one index commit adds.
package struct IndexDelta: Sendable {
  /// The applied position afterwards.
  var end: AppliedPosition
  /// Records without extent, in sequence order.
  var records: [Record]
  /// The last word on every sector that any record up to `end` set, by layer.
  var extents: [(LayerKey, ExtentMap<Placement>)]

  /// Unchecked: the extents are not empty and each layer is there once.
  package init(end: AppliedPosition, records: [Record], extents: [(LayerKey, ExtentMap<Placement>)]) {
    self.end = end
    self.records = records
    self.extents = extents
  }
}
