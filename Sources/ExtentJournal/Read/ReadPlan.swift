internal import Bytes

/// Where one piece of a read is.
enum PieceSource: Sendable, Equatable {
  case spool(SpoolPlace)
  case placed(Placement)
  /// Nothing was ever written there in this layer.
  case absent

  /// Whether the piece is known to read as zeroes.
  var isZero: Bool {
    switch self {
    case .spool(let place): place.kind != .data
    case .placed(.zero), .placed(.trim): true
    case .placed(.frame), .absent: false
    }
  }
}

/// A piece of a read and where it is.
struct PlannedPiece: Sendable, Equatable {
  var range: SectorRange
  var source: PieceSource
}
