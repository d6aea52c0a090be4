package import Bytes
internal import Threads

// What a reader needs no more. A release leaves a tombstone over all of its range, whether or not anything had arrived:
//
// 1. Reads of it fail, for good: it is not looked for in the source, nor in the base. (`refuseReleased`, after every plan
//    whose bytes go to a client; the engine's own reads see zeroes.)
// 2. On a snapshot disk a later write of it is acknowledged and dropped, piece by piece: the job copies what nobody needs.
//    On a device disk the last write wins over a tombstone, too, unless the layer keeps its tombstones.
// 3. A generation on which another stands releases nothing, for the other would lose what it shows.
//
// Release and write are in an order for each region: both hold its lock while they look and commit.

extension Disk {
  /// Gives up `range` for good: the whole sectors in it cannot be read any more, and a snapshot disk takes no more writes
  /// there. It is as durable as any write: after the next flush.
  ///
  /// Also of a sealed or ended generation. One that another stands on throws `.notPermitted`.
  package func release(_ range: ByteRange) throws(JournalError) -> Arrivals {
    guard range.end <= byteCount else {
      throw JournalError(
        .usage, "bytes \(range.start) to \(range.end) reach beyond disk \(name), which has \(byteCount)")
    }
    let sectors = range.enclosedSectors
    guard !sectors.isEmpty else { return Arrivals(reads: []) }
    while true {
      let layer = layer
      let slot = try journal.ring.reserve(.release, layer.key, sectors, payloadByteCount: 0)
      do throws(JournalError) {
        let reads = try journal.regionLocks.withLocks(layer.key, sectors) { () throws(JournalError) in
          try commit(slot, .release, in: layer, sectors)
        }
        if let reads { return Arrivals(reads: reads) }
      } catch {
        journal.giveUp(slot)
        throw error
      }
      // Another took the layer's place. A release that names a closed layer means that one: it is not followed.
      journal.giveUp(slot)
    }
  }

  /// From now on writes to what was released are dropped, as they always are on a snapshot disk.
  package func keepTombstones() { journal.ledger.lock.withLock { layer.keepsTombstones = true } }

  /// Which parts of `range` a write to `layer` may set, and which it must agree with because it sets them only once; nil when it
  /// may set all. The caller holds the region locks.
  func settled(
    _ range: SectorRange, in layer: Layer
  ) throws(JournalError) -> (known: [SectorRange], missing: [SectorRange])? {
    guard mode == .snapshot || journal.ledger.lock.withLock({ layer.keepsTombstones }) else { return nil }
    // What was released before the last checkpoint lies below it.
    let found = try plan(layer, range, through: mode == .device ? .all : .none)
    journal.epochs.leave(found.epoch)
    var known: [SectorRange] = []
    var missing: [SectorRange] = []
    for piece in found.pieces {
      if piece.source.isReleased && !journal.ledger.hooks.has(.tombstoneOverwritten) { continue }
      if piece.source == .absent || mode == .device || piece.source.isReleased {
        if let last = missing.last, last.end == piece.range.start {
          missing[missing.count - 1] = SectorRange(start: last.start, end: piece.range.end)
        } else {
          missing.append(piece.range)
        }
      } else {
        known.append(piece.range)
      }
    }
    return missing == [range] ? nil : (known, missing)
  }

  /// Throws when some of what was found is released. Leaves the epoch then.
  func refuseReleased(_ found: Plan) throws(JournalError) {
    guard let piece = found.pieces.first(where: { $0.source.isReleased }) else { return }
    journal.epochs.leave(found.epoch)
    throw JournalError(
      .notPermitted,
      "bytes \(piece.range.bytes.start) to \(piece.range.bytes.end) of \(name) were released and cannot be read any more"
    )
  }
}
