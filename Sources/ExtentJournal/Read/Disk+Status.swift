package import Bytes

// What block status tells of a disk, in three ways: what is allocated, in which state each sector is, and what a
// generation changed.
//
// A disk is looked at in portions, since a plan has an entry for each piece. An empty stretch of any length is few pieces,
// so the portions grow while there is little in them: 16 TiB of nothing takes a few thousand look-ups of microseconds.

/// One extent of a disk as block status tells it.
package struct StatusRun: Sendable, Equatable {
  /// Length in bytes.
  package var byteCount: UInt64
  /// Whether it reads as zeroes and holds nothing.
  package var isHole: Bool
  /// Whether it reads as zeroes.
  package var isZero: Bool

  /// A run that follows the one before it: its place is not said. A hole is zero unless told otherwise.
  package init(byteCount: UInt64, isHole: Bool, isZero: Bool? = nil) {
    self.byteCount = byteCount
    self.isHole = isHole
    self.isZero = isZero ?? isHole
  }
}

/// What a view knows of a sector. The numbers are those of the context `x-spillway:state`.
package enum SectorState: UInt32, Sendable {
  /// Data that has arrived.
  case data = 0
  /// Zeroes that have arrived, or that what never arrived reads as.
  case zero = 1
  /// Not arrived: a read waits, or fails.
  case awaited = 2
  /// Not arrived: a read is served from the source.
  case fromSource = 3
  /// Outside the bitmap: what the base generation has.
  case fromBase = 4
  /// Given back by the reader.
  case released = 5
}

extension Disk {
  /// The allocation of `range` from its start, at most `limit` runs, as a reader of the view sees it (or, with
  /// `asWriter`, a client of the ingest export). Only what is known to be zeroes is a hole: what is awaited is data, or
  /// copying tools would skip it. Zeroes that a client wanted provisioned are a hole to readers, and none to writers.
  package func status(_ range: ByteRange, asWriter: Bool, limit: Int) throws(JournalError) -> [StatusRun] {
    try runs(range, limit: limit) { (piece, plan) -> StatusRun in
      let isZero: Bool
      switch piece.source {
      case .absent: isZero = asWriter ? mode == .device : absentIsZero(plan)
      default: isZero = piece.source.isZero
      }
      let isHole = isZero && !(asWriter && piece.source.isProvisioned)
      return StatusRun(byteCount: 0, isHole: isHole, isZero: isZero)
    }.map { StatusRun(byteCount: $0.byteCount, isHole: $0.value.isHole, isZero: $0.value.isZero) }
  }

  /// The state of each sector of `range` from its start, at most `limit` runs of equal ones.
  package func states(
    _ range: ByteRange, limit: Int
  ) throws(JournalError) -> [(byteCount: UInt64, value: SectorState)] {
    try runs(range, through: .none, limit: limit) { (piece, plan) -> SectorState in
      if piece.source.fallsToBase { return .fromBase }
      if piece.source.isReleased { return .released }
      guard piece.source == .absent else { return piece.source.isZero ? .zero : .data }
      if plan.attachment != nil { return .fromSource }
      return absentIsZero(plan) ? .zero : .awaited
    }
  }

  /// What this generation itself says of `range`, from its start, at most `limit` runs: true for data and zeroes of its
  /// own, false for what is its base's, has not arrived or was never written. What it took in from a base that was dropped counts as its own. Fails when the generation is tainted.
  package func changes(
    _ range: ByteRange, limit: Int
  ) throws(JournalError) -> [(byteCount: UInt64, value: Bool)] {
    if let taint = taintReason { throw JournalError(.failed, "\(name) is tainted: \(taint)") }
    return try runs(range, through: .dropped, limit: limit) { (piece, plan) -> Bool in
      piece.source != .absent && piece.source != .unwritten && !piece.source.fallsToBase
    }
  }

  /// Whether what is absent is known to be zeroes: it will not arrive, and there is no source to ask.
  private func absentIsZero(_ plan: Plan) -> Bool {
    plan.attachment == nil && plan.isComplete && absence(plan) == .zeroes
  }

  private func runs<Value: Equatable>(
    _ range: ByteRange, through bases: Bases = .all, limit: Int, _ value: (PlannedPiece, Plan) -> Value
  ) throws(JournalError) -> [(byteCount: UInt64, value: Value)] {
    let layer = layer
    var runs: [(byteCount: UInt64, value: Value)] = []
    var position = range.start
    var portionByteCount = Self.portionBytesMin
    while position < range.end, runs.count <= limit {
      let portion = ByteRange(start: position, end: min(range.end, position + portionByteCount))
      let found = try plan(layer, portion.coveringSectors, through: bases)
      journal.epochs.leave(found.epoch)
      for piece in found.pieces {
        guard let part = piece.range.bytes.intersection(portion) else { continue }
        let value = value(piece, found)
        if let last = runs.last, last.value == value {
          runs[runs.count - 1].byteCount += part.count
        } else {
          runs.append((part.count, value))
        }
      }
      position = portion.end
      portionByteCount =
        found.pieces.count <= Self.piecesFew
        ? min(Self.portionBytesMax, portionByteCount * 2) : Self.portionBytesMin
    }
    return Array(runs.prefix(limit))
  }

  private static let portionBytesMin: UInt64 = 64 << 20
  private static let portionBytesMax: UInt64 = 4 << 30
  private static let piecesFew = 64
}

extension PieceSource {
  /// Whether the piece was zeroed by a client that wants room for it kept.
  fileprivate var isProvisioned: Bool {
    switch self {
    case .spool(let place): place.kind == .zero
    case .placed(let placement): placement == .zero
    case .absent, .unwritten: false
    }
  }
}
