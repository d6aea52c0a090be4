public import Bytes

/// What of a range is still to be explained. Layers are asked newest first; each takes what it knows, and the
/// next is asked only for the rest. This is how a read finds its bytes.
@usableFromInline
package struct Gaps: Sendable {
  /// The unexplained parts, in order.
  @usableFromInline package internal(set) var ranges: [SectorRange]

  /// All of `range` is unexplained.
  @inlinable
  package init(_ range: SectorRange) {
    ranges = range.isEmpty ? [] : [range]
  }

  /// Whether everything is explained and no further layer need be asked.
  @inlinable
  package var isEmpty: Bool { ranges.isEmpty }

  /// Lets `map` explain what it can: `found` gets each piece with its value, in order.
  @inlinable
  package mutating func fill<Value: ExtentValue>(
    from map: ExtentMap<Value>, _ found: (SectorRange, Value) -> Void
  ) {
    guard !ranges.isEmpty, !map.isEmpty else { return }
    fill { (gap, take) in
      map.forEach(in: gap) { (piece, value) in
        take(piece)
        found(piece, value)
      }
    }
  }

  /// Lets `layer` explain what it can: it is called once for each gap and calls `take` for the pieces that it
  /// knows, in order.
  @inlinable
  package mutating func fill<Failure: Error>(
    _ layer: (SectorRange, (SectorRange) -> Void) throws(Failure) -> Void
  ) throws(Failure) {
    var rest: [SectorRange] = []
    for gap in ranges {
      var position = gap.start
      try layer(gap) { piece in
        precondition(piece.start >= position && piece.end <= gap.end, "a layer explains out of order")
        if position < piece.start { rest.append(SectorRange(start: position, end: piece.start)) }
        position = piece.end
      }
      if position < gap.end { rest.append(SectorRange(start: position, end: gap.end)) }
    }
    ranges = rest
  }
}
