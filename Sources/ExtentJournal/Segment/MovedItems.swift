internal import BlockFile
internal import Bytes

// What upkeep has moved, for whoever builds an index from the segments.
//
// A moved frame or record says the sequence that it came with, and counts as if it still stood where it came from: behind
// every record with a lower sequence, before every one with a higher. (Of two copies the later one counts: the other
// may be gone. But a copy that has a hole is gone itself: whoever made it died before the index was told, and then it was dead.) So a scan over the fresh batches gives each of them what belongs before it and what was its own.
//
// An index that was there when something was moved knows it already: only what lies behind its sequence is read.

/// See the note at the top of the file.
struct MovedItems {
  private var extents: [(sequence: UInt64, layer: LayerKey, range: SectorRange, placement: Placement)] = []
  private var records: [Record] = []
  /// What upkeep has removed.
  private(set) var removed = RemovedSegments()
  /// A batch that was known to be durable when something was moved.
  private(set) var durableThrough: UInt64 = 0
  /// Segments that cannot be read.
  private(set) var damaged: [UInt64] = []
  private var nextExtent = 0
  private var nextRecord = 0

  /// Whether there is something that no batch has taken.
  var hasMore: Bool { nextExtent < extents.count || nextRecord < records.count }

  /// What the moved segments hold of records behind `sequence`.
  /// Up to `last` only, and of frames only those that `neededFrames` gives by their offsets, if it is there.
  static func read(
    _ store: SegmentStore, behind sequence: UInt64, through last: UInt64 = .max,
    neededFrames: ((UInt64) throws(JournalError) -> Set<UInt64>)? = nil
  ) throws(JournalError) -> MovedItems {
    var items = MovedItems()
    let numbers: [UInt64]
    do throws(FileError) { numbers = try store.list(.moved) } catch { throw JournalError(error) }
    for number in numbers {
      let segment: OpenSegment
      switch try store.segmentOrFlaw(number) {
      case .success(let found): segment = found
      case .failure(let flaw):
        if flaw.kind != .torn { items.damaged.append(number) }
        continue
      }
      if let footer = try segment.footer() {
        items.durableThrough = max(items.durableThrough, footer.durableThrough)
        if footer.lastSequence <= sequence { continue }
      }
      guard let inventory = try SegmentInventory.read(segment) else {
        items.damaged.append(number)
        continue
      }
      let gone = try Self.punched(inventory, number, store, segment)
      let needed = try neededFrames?(number)
      items.add(inventory, of: number, behind: sequence, through: last) { offset in
        !gone.contains(offset) && needed?.contains(offset) ?? true
      }
    }
    // Stable: copies of one sequence stay in the order in which they were made.
    items.extents = items.extents.enumerated()
      .sorted { ($0.element.sequence, $0.offset) < ($1.element.sequence, $1.offset) }.map(\.element)
    items.records = items.records.enumerated()
      .sorted { ($0.element.sequence, $0.offset) < ($1.element.sequence, $1.offset) }.map(\.element)
    return items
  }

  /// The offsets of the frames of which something was punched.
  private static func punched(
    _ inventory: SegmentInventory, _ number: UInt64, _ store: SegmentStore, _ segment: OpenSegment
  ) throws(JournalError) -> Set<UInt64> {
    do throws(FileError) {
      guard try store.allocatedByteCount(number, .moved) < segment.file.byteCount() else { return [] }
      var gone: Set<UInt64> = []
      for (header, offset) in inventory.frames
      where try segment.file.hasHole(in: offset..<offset + UInt64(header.itemByteCount)) {
        gone.insert(offset)
      }
      return gone
    } catch {
      throw JournalError(error)
    }
  }

  private mutating func add(
    _ inventory: SegmentInventory, of number: UInt64, behind sequence: UInt64, through last: UInt64,
    isThere: (_ offset: UInt64) -> Bool
  ) {
    durableThrough = max(durableThrough, inventory.durableThrough)
    for (header, offset) in inventory.frames where isThere(offset) {
      let address = FrameAddress(
        segment: number, granule: UInt32(offset / FrameAddress.granuleByteCount),
        kibibytes: UInt16((header.itemByteCount + 1023) / 1024))
      var skip: UInt32 = 0
      for extent in header.extents {
        if extent.sequence > sequence, extent.sequence <= last {
          extents.append((extent.sequence, header.layer, extent.range, .frame(address, skip: skip)))
        }
        skip += UInt32(extent.range.count)
      }
    }
    for record in inventory.records {
      if record.kind == .removed {
        removed.add(record)
      } else if record.sequence > sequence, record.sequence <= last {
        if let placement = Placement(record.kind) {
          extents.append((record.sequence, record.layer, record.range, placement))
        } else {
          records.append(record)
        }
      }
    }
  }

  /// `batch` with everything that belongs before it and was not taken, and with what was moved out of it.
  mutating func taken(into batch: PublishedBatch) -> PublishedBatch {
    guard hasMore else { return batch }
    var merged = batch
    var before: [(LayerKey, SectorRange, Placement)] = []
    while nextExtent < extents.count, extents[nextExtent].sequence <= batch.end.sequence {
      let next = extents[nextExtent]
      if next.sequence < batch.firstSequence {
        before.append((next.layer, next.range, next.placement))
      } else {
        merged.extents.append((next.layer, next.range, next.placement))
      }
      nextExtent += 1
    }
    merged.extents = before + merged.extents
    var earlier: [Record] = []
    while nextRecord < records.count, records[nextRecord].sequence <= batch.end.sequence {
      earlier.append(records[nextRecord])
      nextRecord += 1
    }
    merged.records = (earlier + batch.records).enumerated()
      .sorted { ($0.element.sequence, $0.offset) < ($1.element.sequence, $1.offset) }.map(\.element)
    return merged
  }
}
