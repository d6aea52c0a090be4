internal import Bytes

/// A piece of a generation that is read offline.
struct ReaderPiece {
  var range: SectorRange
  /// Nil: it never arrived.
  var placement: Placement?
  /// The generation that holds it: the one that was asked, or one of its bases.
  var layer: LayerKey
}

// Generations offline, under the same rules as Disk+Base.swift: what is outside the bitmap is looked up in the base.
extension JournalReader {
  /// Calls `body` for each piece of `range` of `layer`, in order and without gaps; what falls to the base is there as
  /// the base has it. What falls as far as to `floor` is said to be the base's.
  func forEachPiece(
    of layer: LayerState, in range: SectorRange, downTo floor: LayerKey? = nil, depth: Int = 0,
    _ body: (ReaderPiece) throws(JournalError) -> Void
  ) throws(JournalError) {
    try forEachOwnPiece(of: layer, in: range) { (piece) throws(JournalError) in
      guard piece.placement == .base, layer.baseKey == nil || layer.baseKey != floor else {
        return try body(piece)
      }
      let base = try base(of: layer, depth: depth + 1)
      try forEachPiece(of: base, in: piece.range, downTo: floor, depth: depth + 1) {
        (below) throws(JournalError) in
        guard below.placement != nil else {
          throw JournalError(
            .damaged,
            "bytes \(below.range.bytes.start) to \(below.range.bytes.end) of generation \(base.title) are missing, on which generation \(layer.title) stands"
          )
        }
        try body(below)
      }
    }
  }

  /// As `forEachPiece`, with what falls to the base said as such. What a checkpoint that takes no more writes lacks was never
  /// written: it reads as zeroes, and is said to be trimmed.
  func forEachOwnPiece(
    of layer: LayerState, in range: SectorRange, _ body: (ReaderPiece) throws(JournalError) -> Void
  ) throws(JournalError) {
    let absence = absence(of: layer)
    var position = range.start
    func skip(to sector: UInt64) throws(JournalError) {
      guard position < sector else { return }
      try body(
        ReaderPiece(range: SectorRange(start: position, end: sector), placement: absence, layer: layer.key))
    }
    try index.forEach(layer.key, in: range) { (piece, placement) throws(JournalError) in
      try skip(to: piece.start)
      position = piece.end
      try body(ReaderPiece(range: piece, placement: placement, layer: layer.key))
    }
    try skip(to: range.end)
  }

  /// What is where the index knows nothing of `layer`; nil: it never arrived.
  private func absence(of layer: LayerState) -> Placement? {
    guard layer.kind == .checkpoint else { return nil }
    // The index may have followed to the beginning of an open one and no further.
    if layer.base != 0, !layer.bitmapIsWhole { return .base }
    let isClosed =
      layer.isClosed || catalog.layers.contains { $0.key.disk == layer.key.disk && $0.key > layer.key }
    return isClosed ? .trim : nil
  }

  /// The base of `layer`, which is not tainted.
  private func base(of layer: LayerState, depth: Int) throws(JournalError) -> LayerState {
    guard depth <= Disk.baseDepthMax, let key = layer.baseKey, key < layer.key,
      let base = catalog.layers.first(where: { $0.key == key })
    else {
      throw JournalError(.damaged, "the base of generation \(layer.title) is not in the journal")
    }
    if let taint = base.taint {
      throw JournalError(
        .failed, "generation \(base.title), on which generation \(layer.title) stands, is tainted: \(taint)")
    }
    return base
  }

  /// The sealed generation `name` of the disk of `layer`, on which `layer` stands or stood before it took in what it
  /// showed of others. `.usage` when there is none.
  func ancestor(_ name: String, of layer: LayerState, _ disk: DiskBody) throws(JournalError) -> LayerKey {
    let (_, older) = try find("\(disk.name)@\(name)")
    guard older.seal != nil else {
      throw JournalError(.usage, "generation \(name) of disk \(disk.name) is not sealed")
    }
    var current: LayerState? = layer
    while let state = current, state.key > older.key { current = parent(of: state) }
    guard layer.key != older.key, current?.key == older.key else {
      throw JournalError(
        .usage, "generation \(layer.title) of disk \(disk.name) does not stand on generation \(name)")
    }
    return older.key
  }

  /// What `layer` stands on; or, by its seal, what it stood on when it was written.
  private func parent(of layer: LayerState) -> LayerState? {
    if let key = layer.baseKey { return catalog.layers.first { $0.key == key && key < layer.key } }
    // A name is free again after a drop, but never for what is older than its dependents.
    guard let name = layer.seal.flatMap({ SealRecord($0) })?.base else { return nil }
    return catalog.layers.first {
      $0.key.disk == layer.key.disk && $0.key < layer.key && !$0.isDropped && $0.name == name
    }
  }
}
