import TestKit
import Bytes
import Extents
import Testing

// Goal: the interval algebra agrees with the plainest model there is, an array with one cell a sector.
// Method: seeded random inserts, removals and conditional removals; after each the whole map is compared.

/// A value that knows which of its sectors it is, so that carving at the wrong place shows.
private struct Mark: ExtentValue {
  var writer: Int
  var skip: UInt64
  func advanced(by sectors: UInt64) -> Mark { Mark(writer: writer, skip: skip + sectors) }
}

private struct Model {
  var cells: [Mark?]

  mutating func insert(_ range: SectorRange, _ value: Mark) {
    for sector in range.start..<range.end { cells[Int(sector)] = value.advanced(by: sector - range.start) }
  }

  mutating func remove(_ range: SectorRange, where condition: (Mark) -> Bool) {
    for sector in range.start..<range.end {
      // The condition of a real caller looks at what does not change within an entry; so does this one.
      if let mark = cells[Int(sector)], condition(mark) { cells[Int(sector)] = nil }
    }
  }
}

private func expand(_ map: ExtentMap<Mark>, in range: SectorRange, count: Int) -> [Mark?] {
  var cells = [Mark?](repeating: nil, count: count)
  var last: UInt64 = 0
  map.forEach(in: range) { (piece, value) in
    #expect(piece.start >= last && range.contains(piece))
    last = piece.end
    for sector in piece.start..<piece.end { cells[Int(sector)] = value.advanced(by: sector - piece.start) }
  }
  return cells
}

@Suite struct ExtentMapTests {
  @Test(
    "a map of extents agrees with an array of sectors through random changes", arguments: [1, 2, 3, 4, 5, 6])
  func randomChanges(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    let sectors = seed % 2 == 0 ? 200 : 20_000
    let longest = seed % 3 == 0 ? 8 : sectors / 10
    var map = ExtentMap<Mark>()
    var model = Model(cells: Array(repeating: nil, count: sectors))
    let whole = SectorRange(start: 0, count: UInt64(sectors))
    for step in 0..<3000 {
      let start = UInt64.random(in: 0..<UInt64(sectors), using: &random)
      let count = min(UInt64.random(in: 0...UInt64(longest), using: &random), UInt64(sectors) - start)
      let range = SectorRange(start: start, count: count)
      switch Int.random(in: 0..<10, using: &random) {
      case 0:
        map.remove(range)
        model.remove(range) { _ in true }
      case 1:
        map.remove(range) { $0.writer % 2 == 0 }
        model.remove(range) { $0.writer % 2 == 0 }
      case 2:  // continues its neighbour: must join, and stay right
        let writer = Int.random(in: 0..<3, using: &random)
        map.insert(range, Mark(writer: -writer, skip: range.start))
        model.insert(range, Mark(writer: -writer, skip: range.start))
      default:
        map.insert(range, Mark(writer: step, skip: 0))
        model.insert(range, Mark(writer: step, skip: 0))
      }
      if sectors <= 200 || step % 100 == 0 {
        #expect(expand(map, in: whole, count: sectors) == model.cells, "seed \(seed), step \(step)")
        #expect(expand(map, in: range, count: sectors).prefix(Int(range.start)).allSatisfy { $0 == nil })
      }
    }
    #expect(expand(map, in: whole, count: sectors) == model.cells, "seed \(seed)")
  }

  @Test("neighbours that continue each other become one entry")
  func joining() {
    var map = ExtentMap<Mark>()
    for start in [4, 0, 8, 2, 6] as [UInt64] {
      map.insert(SectorRange(start: start, count: 2), Mark(writer: 1, skip: start))
    }
    #expect(map.count == 1)
    map.insert(SectorRange(start: 3, count: 2), Mark(writer: 2, skip: 0))
    #expect(map.count == 3)
  }

  @Test("what the layers do not explain is left as gaps, to the sector", arguments: [11, 12, 13])
  func gaps(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    for _ in 0..<300 {
      var layers = [ExtentMap<Mark>(), ExtentMap<Mark>(), ExtentMap<Mark>()]
      var expected = [Mark?](repeating: nil, count: 100)
      for (number, index) in layers.indices.reversed().enumerated() {
        for _ in 0..<4 {
          let start = UInt64.random(in: 0..<90, using: &random)
          let range = SectorRange(start: start, count: UInt64.random(in: 1...10, using: &random))
          let mark = Mark(writer: number, skip: start)
          layers[index].insert(range, mark)
        }
        layers[index].forEach { (range, value) in
          for sector in range.start..<range.end {
            expected[Int(sector)] = value.advanced(by: sector - range.start)
          }
        }
      }
      var gaps = Gaps(SectorRange(start: 0, count: 100))
      var found = [Mark?](repeating: nil, count: 100)
      for layer in layers {
        gaps.fill(from: layer) { (range, value) in
          for sector in range.start..<range.end {
            #expect(found[Int(sector)] == nil)
            found[Int(sector)] = value.advanced(by: sector - range.start)
          }
        }
      }
      #expect(found == expected, "seed \(seed)")
      let missing = Set(gaps.ranges.flatMap { Array($0.start..<$0.end) })
      #expect(
        missing == Set(expected.indices.filter { expected[$0] == nil }.map(UInt64.init)), "seed \(seed)")
    }
  }
}
