internal import Bytes

/// What a run of a generation is, as its view would show it.
package enum ExtentState: String, Sendable, CaseIterable {
  /// Stored as bytes.
  case data
  /// Known to be zeroes.
  case zero
  /// As the base has it.
  case base
  /// Not arrived yet; a view reads it from the source, whose job lives.
  case source
  /// Not arrived yet; a view waits for it, or reads it from a source whose job nobody has seen.
  case awaited
  /// Never arrived, and never will.
  case absent
  /// Released: nobody can read it.
  case released
}

/// One run of a generation.
package struct MappedExtent: Sendable, Equatable {
  /// Bytes of the disk.
  package var offset: UInt64
  /// In bytes; neighbours differ in their states.
  package var length: UInt64
  /// Of all of it.
  package var state: ExtentState

  /// Unchecked: runs come in order and without gaps.
  package init(offset: UInt64, length: UInt64, state: ExtentState) {
    self.offset = offset
    self.length = length
    self.state = state
  }
}

extension JournalReader {
  /// Calls `body` for each run of `name` (`NAME` or `NAME@GENERATION`) that is alike, in order and without gaps. Returns the
  /// size of the disk in bytes. What only a daemon knows `served`, its status, says: whether there is a source.
  @discardableResult
  package func forEachState(
    of name: String, served: JournalStatus? = nil, _ body: (MappedExtent) throws(JournalError) -> Void
  ) throws(JournalError) -> UInt64 {
    let (disk, layer) = try find(name)
    var missing: ExtentState = layer.closure != nil || layer.isComplete ? .absent : .awaited
    let known = served?.disks.first { $0.name == disk.name }?.generations
    switch known?.first(where: { $0.number == layer.key.generation.number })?.source {
    // Neither completion nor time ends a generation whose job lives.
    case "alive": missing = .source
    case "dead": missing = .absent
    default: break
    }
    var run: MappedExtent?
    let whole = SectorRange(start: 0, count: disk.byteCount / Sector.byteCount)
    try forEachOwnPiece(of: layer, in: whole) { (piece) throws(JournalError) in
      let state: ExtentState
      switch piece.placement {
      case .frame?: state = .data
      case .zero?, .trim?: state = .zero
      case .base?: state = .base
      case .release?: state = .released
      case nil: state = missing
      }
      if let open = run, open.state == state {
        run?.length += piece.range.byteCount
      } else {
        if let open = run { try body(open) }
        run = MappedExtent(offset: piece.range.bytes.start, length: piece.range.byteCount, state: state)
      }
    }
    if let open = run { try body(open) }
    return disk.byteCount
  }
}
