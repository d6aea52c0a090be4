internal import Bytes

/// Where one piece of a read is.
enum PieceSource: Sendable, Equatable {
  case spool(SpoolPlace)
  case placed(Placement)
  /// Nothing was ever written there in this layer.
  case absent
  /// Nor will be: of a checkpoint that takes no more writes. It reads as zeroes.
  case unwritten

  /// Whether the piece is known to read as zeroes.
  var isZero: Bool {
    switch self {
    case .spool(let place): place.kind == .zero || place.kind == .trim
    case .placed(.zero), .placed(.trim), .unwritten: true
    case .placed(.frame), .placed(.base), .placed(.release), .absent: false
    }
  }

  /// Whether the piece is outside the bitmap: what it reads as, the base knows.
  var fallsToBase: Bool {
    switch self {
    case .spool(let place): place.kind == .base
    case .placed(let placement): placement == .base
    case .absent, .unwritten: false
    }
  }

  /// Whether a reader has given the piece up.
  var isReleased: Bool {
    switch self {
    case .spool(let place): place.kind == .release
    case .placed(let placement): placement == .release
    case .absent, .unwritten: false
    }
  }
}

/// A piece of a read and where it is.
struct PlannedPiece: Sendable, Equatable {
  var range: SectorRange
  var source: PieceSource
  /// The layer that holds it: the one that was asked, or one of its bases.
  var layer: LayerKey
}
