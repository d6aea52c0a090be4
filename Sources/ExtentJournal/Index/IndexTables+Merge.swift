internal import Bytes
internal import Extents
internal import LMDB

// What a drop or a merge does to the tables (MergeBody says what they are).
//
// 1. Rows first, in slices as any large delta: entries of the dependent that fall to the base become what the base has
//    there. Made twice they come to the same, for the rows of the base stay.
// 2. Who stands on what changes with the applied position, in one transaction (`settle`): until then all falls to where it
//    fell before.
// 3. The rows of what was dropped go after that (`bury`): a range row is laid over all of them, and the sweep removes them.

extension IndexTables {
  /// Calls `found` for everything that `body` has its dependents take in, by dependent and in order. What the committed
  /// tables say counts, so everything before has to be committed.
  func forEachTakenIn(
    _ body: MergeBody, of disk: DiskID, _ found: (LayerKey, SectorRange, Placement) throws(LMDBError) -> Void
  ) throws(LMDBError) {
    func key(_ number: UInt32) -> LayerKey { LayerKey(disk: disk, generation: GenerationID(number: number)) }
    // A base is closed and has everything; only a checkpoint may lack something, which was never written then. Should
    // another lack something all the same, then nobody reads older bytes there.
    let absence: Placement = try isCheckpoint(key(body.from)) ? .trim : .release
    let all = SectorRange(start: 0, end: Region.indexMax * Region.sectorCount)
    for dependent in body.dependents {
      try inPortions(key(dependent), all) { (range, placement) throws(LMDBError) in
        guard placement == .base else { return }
        var position = range.start
        try inPortions(key(body.from), range) { (piece, placement) throws(LMDBError) in
          if position < piece.start {
            try found(key(dependent), SectorRange(start: position, end: piece.start), absence)
          }
          position = piece.end
          if placement != .base { try found(key(dependent), piece, placement) }
        }
        if position < range.end {
          try found(key(dependent), SectorRange(start: position, end: range.end), absence)
        }
      }
    }
  }

  private func isCheckpoint(_ layer: LayerKey) throws(LMDBError) -> Bool {
    try withReader { reader throws(LMDBError) in
      try reader.get(generations, Self.generationKey(layer)).flatMap { LayerState(layer, $0) }?.kind
        == .checkpoint
    }
  }

  private static func generationKey(_ layer: LayerKey) -> [UInt8] {
    var key: [UInt8] = []
    key.appendBigEndian(layer.disk.number)
    key.appendBigEndian(layer.generation.number)
    return key
  }

  /// As `forEach`, for bodies that fail as the index does.
  private func inPortions(
    _ layer: LayerKey, _ range: SectorRange, _ body: (SectorRange, Placement) throws(LMDBError) -> Void
  ) throws(LMDBError) {
    var next = range.start
    while next < range.end {
      let (portion, resume) = try portionOf(layer, SectorRange(start: next, end: range.end))
      for (piece, placement) in portion { try body(piece, placement) }
      next = resume
    }
  }

  /// Writes down who stands on what after `record`, a drop or a merge.
  func settle(_ record: Record, _ transaction: borrowing LMDBWriteTransaction) throws(LMDBError) {
    guard let body = MergeBody(record) else {
      throw LMDBError.corrupted("a drop or merge record is malformed")
    }
    for dependent in body.dependents {
      let key = LayerKey(disk: record.layer.disk, generation: GenerationID(number: dependent))
      try change(key, transaction) { $0.rebase(to: body.newBase) }
    }
    guard record.kind == .drop else { return }
    try change(record.layer, transaction) {
      $0.drop()
      $0.base = 0
    }
  }

  private func change(
    _ layer: LayerKey, _ transaction: borrowing LMDBWriteTransaction, _ body: (inout LayerState) -> Void
  ) throws(LMDBError) {
    let key = Self.generationKey(layer)
    guard var state = try transaction.get(generations, key).flatMap({ LayerState(layer, $0) }) else { return }
    body(&state)
    try transaction.put(generations, key, state.encoded)
  }

  /// Leaves nothing of `layer`, a dropped generation of a disk of `byteCount` bytes, but one range row; its rows go with
  /// the next sweeps. Does nothing when that was done. False when one transaction had no room for all of it.
  func bury(_ layer: LayerKey, byteCount: UInt64) throws(LMDBError) -> Bool {
    let regions = Region.indices(SectorRange(start: 0, count: byteCount / Sector.byteCount))
    let isBuried = try withReader { reader throws(LMDBError) in
      try rangeRow(reader, layer, endingBehind: 0).map { $0.kind == .release && $0.regions == regions }
        ?? false
    }
    guard !isBuried else { return true }
    var isWhole = true
    try transact { (transaction) throws(LMDBError) in
      var budget = try budget(transaction)
      var row = RangeRow(regions: regions, kind: .release, sequence: 0)
      while let left = try lay(layer, row, transaction, &budget) {
        guard left != row.regions else {
          isWhole = false
          break
        }
        row.regions = left
      }
    }
    return isWhole
  }
}
