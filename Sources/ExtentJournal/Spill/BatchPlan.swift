package import Bytes
internal import Extents

// What of a batch is written, and how it is packed. Pure.
//
// Inside a batch only the last word on a sector counts; what it replaced never touches the disk. (Across batches
// it must, or the journal after a power loss would not be a prefix of what was acknowledged.) What is left is sorted by
// disk and offset. Runs of neighbouring sectors are cut at multiples of 128 KiB of the disk and become a frame each;
// pieces below 64 KiB share frames of 64 KiB: four-kilobyte writes compress together by a tenth better than alone,
// and a read of one of them decompresses no more than 64 KiB.

/// A frame to be made: pieces of one layer, in order of their offsets.
package struct FrameDraft: Sendable, Equatable {
  /// The one to which every piece belongs: frames are not shared between disks or generations.
  package var layer: LayerKey
  /// At least one; they neither overlap nor come out of order.
  package var pieces: [Piece]

  /// Sectors, the record that brought them, and where their bytes lie in the ring.
  package struct Piece: Sendable, Equatable {
    /// Never empty, and never across a multiple of 128 KiB.
    package var range: SectorRange
    var sequence: UInt64
    /// A position in the spool ring; the bytes follow without gaps.
    package var position: UInt64
  }

  /// Bytes before compression: at most 128 KiB.
  package var rawByteCount: Int { pieces.reduce(0) { $0 + Int($1.range.byteCount) } }
  var extents: [FrameExtent] { pieces.map { FrameExtent(range: $0.range, sequence: $0.sequence) } }
}

/// The frames and record items of one batch.
package struct BatchPlan: Sendable, Equatable {
  /// By layer, and within one roughly by offset: a shared frame closes when it is full.
  package var frames: [FrameDraft] = []
  /// Zeroes, trims and records without extent, by layer and offset within their kind.
  package var records: [Record] = []

  static let sequentialFrameSectors: UInt64 = 256  // 128 KiB
  static let sharedFrameSectors: UInt64 = 128  // 64 KiB

  /// The plan for `batch`, which is in sequence order.
  package init(_ batch: [Record], positions: [UInt64]) {
    var maps: [LayerKey: ExtentMap<Source>] = [:]
    for (index, record) in batch.enumerated() {
      if record.kind.hasExtent {
        maps[record.layer, default: ExtentMap()].insert(record.range, Source(index: index, skip: 0))
      } else {
        records.append(record)
      }
    }
    for (layer, map) in maps.sorted(by: { $0.key < $1.key }) {
      add(layer, map, batch, positions)
    }
  }

  private struct Source: ExtentValue {
    var index: Int
    var skip: UInt64
    func advanced(by sectors: UInt64) -> Source { Source(index: index, skip: skip + sectors) }
  }

  private mutating func add(
    _ layer: LayerKey, _ map: ExtentMap<Source>, _ batch: [Record], _ positions: [UInt64]
  ) {
    var run: [FrameDraft.Piece] = []
    var shared = FrameDraft(layer: layer, pieces: [])
    func close(_ frames: inout [FrameDraft]) {
      defer { run = [] }
      guard let first = run.first, let last = run.last else { return }
      if last.range.end - first.range.start >= Self.sharedFrameSectors {
        frames.append(FrameDraft(layer: layer, pieces: run))
        return
      }
      let size = UInt64(shared.rawByteCount) + (last.range.end - first.range.start) * Sector.byteCount
      if size > Self.sharedFrameSectors * Sector.byteCount, !shared.pieces.isEmpty {
        frames.append(shared)
        shared.pieces = []
      }
      shared.pieces += run
    }
    map.forEach { (range, source) in
      let record = batch[source.index]
      guard record.kind == .data else {
        var part = record
        part.range = range
        records.append(part)
        return
      }
      var start = range.start
      while start < range.end {
        let boundary = (start / Self.sequentialFrameSectors + 1) * Self.sequentialFrameSectors
        let end = min(range.end, boundary)
        if let last = run.last,
          last.range.end != start
            || last.range.start / Self.sequentialFrameSectors != start / Self.sequentialFrameSectors
        {
          close(&frames)
        }
        run.append(
          FrameDraft.Piece(
            range: SectorRange(start: start, end: end), sequence: record.sequence,
            position: positions[source.index] + (source.skip + start - range.start) * Sector.byteCount))
        start = end
      }
    }
    close(&frames)
    if !shared.pieces.isEmpty { frames.append(shared) }
  }
}
