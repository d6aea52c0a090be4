import Bytes
import ExtentJournal
import Extents
import LMDB
import TestKit
import Testing

// Goal: the index holds what an array of sectors would, whatever its rows look like inside, and no transaction is larger
// than it may be.
// Method: random deltas of data, zeroes and huge zeroes go into real tables with transactions made small; now and then
// a transaction fails and the tables are closed and opened, as after a crash, and the delta comes again, as from a
// replay; stale rows are swept in between. Another layer lies on either side and must never change. What the tables count as live
// is counted again after each step, and is what the model counts once everything is swept.

private let layer = LayerKey(disk: DiskID(number: 2), generation: GenerationID(number: 1))
private let neighbours = [1, 3].map {
  LayerKey(disk: DiskID(number: $0), generation: GenerationID(number: 1))
}
private let journal = JournalUUID.random()
private let regionSectors = 1024

/// Fails the transaction with the number that was asked for.
private final class Fault: @unchecked Sendable {
  // Sendable: each test uses its own on one thread.
  var countdown = 0
  func strike() throws(LMDBError) {
    countdown -= 1
    if countdown == 0 { throw LMDBError(operation: "planted", code: 28) }
  }
}

private func sectors(_ start: Int, _ end: Int) -> SectorRange {
  SectorRange(start: UInt64(start), end: UInt64(end))
}

private func frame(_ number: Int) -> Placement {
  .frame(
    FrameAddress(
      segment: UInt64(number) / 640 + 1, granule: UInt32(number % 640) * 64 + 256, kibibytes: 4), skip: 0)
}

/// Tables, and what should be in them.
private struct ModelTables {
  let directory: TemporaryDirectory
  let fault = Fault()
  let pagesMax: Int
  var random: SeededGenerator
  var tables: IndexTables!
  var model: [Placement?]
  var batch: UInt64 = 0

  init(seed: UInt64, regions: Int, pagesMax: Int) throws {
    directory = try TemporaryDirectory()
    self.pagesMax = pagesMax
    random = SeededGenerator(seed: seed)
    model = [Placement?](repeating: nil, count: regions * regionSectors)
    try open()
  }

  mutating func open() throws {
    // An environment is open once in a process: the old one goes first.
    tables = nil
    let fault = fault
    tables = try IndexTables(path: directory.path, readOnly: false, pagesMax: pagesMax) {
      () throws(LMDBError) in try fault.strike()
    }
  }

  /// Commits the extents; when `failing`, the n-th transaction fails, there is a crash, and they come again.
  mutating func commit(_ extents: [(LayerKey, ExtentMap<Placement>)], failing: Int? = nil) throws {
    batch += 1
    var end = AppliedPosition()
    end.batch = batch
    end.sequence = batch
    let delta = IndexDelta(end: end, records: [], extents: extents)
    if let failing {
      fault.countdown = failing
      var hasFailed = false
      do { try tables.commit(delta, journal: journal) } catch { hasFailed = true }
      fault.countdown = 0
      guard hasFailed else { return }
      try open()
      if Bool.random(using: &random) { _ = try tables.sweep() }
    }
    try tables.commit(delta, journal: journal)
  }

  mutating func randomExtents() -> ExtentMap<Placement> {
    var map = ExtentMap<Placement>()
    for _ in 0..<Int.random(in: 1...12, using: &random) {
      let kind = Int.random(in: 0..<10, using: &random)
      let longest = kind < 3 ? model.count : kind < 6 ? 3 * regionSectors : 40
      let count = Int.random(in: 1...longest, using: &random)
      let start = Int.random(in: 0...model.count - count, using: &random)
      let placement: Placement = [.zero, .trim, .base].randomElement(using: &random)!
      if kind < 8 {
        map.insert(sectors(start, start + count), placement)
      } else if kind == 8 {
        map.insert(sectors(start, start + count), frame(Int(batch) * 16 + map.count))
      } else {
        // Every second sector of a part of a region: its row splits.
        let base = start / regionSectors * regionSectors
        for sector in stride(from: base, to: base + 500, by: 2) {
          map.insert(sectors(sector, sector + 1), frame(Int(batch) * 16 + sector))
        }
      }
    }
    return map
  }

  mutating func apply(_ map: ExtentMap<Placement>) {
    map.forEach { (range, placement) in
      for sector in range.start..<range.end {
        model[Int(sector)] = placement.advanced(by: sector - range.start)
      }
    }
  }

  func found(_ range: SectorRange) throws -> [Placement?] {
    var cells = [Placement?](repeating: nil, count: Int(range.count))
    var position = range.start
    try tables.look(layer, range) { piece, placement in
      #expect(piece.start >= position && piece.end <= range.end, "pieces come in order")
      position = piece.end
      for sector in piece.start..<piece.end {
        cells[Int(sector - range.start)] = placement.advanced(by: sector - piece.start)
      }
    }
    return cells
  }

  /// What the tables count as live: sectors of each frame.
  func liveFrames() throws -> [FrameAddress: UInt32] {
    var found: [FrameAddress: UInt32] = [:]
    for (segment, sum) in try tables.liveSegments() {
      let frames = try tables.liveFrames(of: segment)
      #expect(sum.frames == frames.count && sum.sectors == frames.reduce(0) { $0 + UInt64($1.sectors) })
      for frame in frames { found[frame.address] = frame.sectors }
    }
    return found
  }

  /// What is live by the model, and by `times` layers that hold `other`.
  func modelFrames(and other: ExtentMap<Placement>, times: UInt32) -> [FrameAddress: UInt32] {
    var found: [FrameAddress: UInt32] = [:]
    for case .frame(let address, _) in model { found[address, default: 0] += 1 }
    other.forEach { (range, placement) in
      if case .frame(let address, _) = placement { found[address, default: 0] += times * UInt32(range.count) }
    }
    return found
  }

  func check(_ range: SectorRange, _ what: String) throws {
    #expect(try found(range) == Array(model[Int(range.start)..<Int(range.end)]), "\(what)")
  }
}

@Suite struct IndexTablesTests {
  @Test("tables hold what an array would, through crashes between transactions", arguments: seeds(6))
  func histories(seed: UInt64) throws {
    // 300 pages: a dozen rows each.
    var machine = try ModelTables(seed: seed, regions: 40, pagesMax: seed % 3 == 0 ? 4096 : 300)
    var mark = ExtentMap<Placement>()
    mark.insert(sectors(0, machine.model.count * 2), .zero)
    mark.insert(sectors(5, 50), frame(1))
    try machine.commit(neighbours.map { ($0, mark) })
    for step in 0..<60 {
      let map = machine.randomExtents()
      machine.apply(map)
      let failing =
        Int.random(in: 0..<3, using: &machine.random) == 0
        ? Int.random(in: 1...6, using: &machine.random) : nil
      try machine.commit([(layer, map)], failing: failing)
      for _ in 0..<Int.random(in: 0..<6, using: &machine.random) { _ = try machine.tables.sweep() }
      #expect(try machine.tables.livenessFlaw() == nil, "seed \(seed), step \(step)")
      let start = Int.random(in: 0..<machine.model.count, using: &machine.random)
      let end = Int.random(in: start...min(start + 6000, machine.model.count), using: &machine.random)
      try machine.check(sectors(start, end), "seed \(seed), step \(step)")
      if step % 20 == 19 { try machine.check(sectors(0, machine.model.count), "seed \(seed), step \(step)") }
    }
    while try machine.tables.sweep() {}
    try machine.check(sectors(0, machine.model.count), "seed \(seed), swept")
    #expect(try machine.liveFrames() == machine.modelFrames(and: mark, times: 2), "seed \(seed)")
    #expect(try machine.tables.livenessFlaw() == nil, "seed \(seed)")
    for other in neighbours {
      var pieces: [SectorRange] = []
      try machine.tables.look(other, sectors(0, machine.model.count * 2)) { piece, _ in pieces.append(piece) }
      #expect(pieces.first == sectors(0, 5) && pieces.last?.end == UInt64(machine.model.count * 2))
    }
  }

  @Test("range rows cut and join like sectors, and stay sorted, apart and joined", arguments: seeds(8))
  func rangeRows(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    var rows: [RangeRow] = []
    var model = [RangeRow.Kind?](repeating: nil, count: 60)
    for step in 1...300 as ClosedRange<UInt64> {
      let start = Int.random(in: 0..<60, using: &random)
      if Int.random(in: 0..<3, using: &random) == 0 {
        if let hit = rows.firstIndex(where: { $0.regions.contains(UInt64(start)) }) {
          rows.replaceSubrange(hit...hit, with: rows[hit].without(UInt64(start)))
        }
        model[start] = nil
      } else {
        let end = Int.random(in: start + 1...min(start + 20, 60), using: &random)
        let kind: RangeRow.Kind = [.zero, .trim, .base].randomElement(using: &random) ?? .zero
        let new = RangeRow(regions: UInt64(start)..<UInt64(end), kind: kind, sequence: step)
        let touched = rows.filter {
          $0.regions.upperBound >= new.regions.lowerBound && $0.regions.lowerBound <= new.regions.upperBound
        }
        let laid = new.laid(over: touched)
        #expect(laid.contains { $0.kind == kind && $0.sequence == step })
        rows = rows.filter { !touched.contains($0) } + laid
        rows.sort { $0.regions.lowerBound < $1.regions.lowerBound }
        for region in start..<end { model[region] = kind }
      }
      var cells = [RangeRow.Kind?](repeating: nil, count: 60)
      for (index, row) in rows.enumerated() {
        for region in row.regions { cells[Int(region)] = row.kind }
        let key = RangeRow.key(layer, end: row.regions.upperBound)
        let back = RangeRow.parse(key.span.bytes, row.value.span.bytes)
        #expect(back?.row == row && back?.layer == layer)
        guard index > 0 else { continue }
        let before = rows[index - 1]
        #expect(before.regions.upperBound <= row.regions.lowerBound, "seed \(seed), step \(step)")
      }
      #expect(cells == model, "seed \(seed), step \(step)")
    }
  }

  @Test("a huge trim is one row; what was behind it goes in bounded slices and is never seen again")
  func hugeTrim() throws {
    var machine = try ModelTables(seed: 1, regions: 1, pagesMax: 4096)
    let regions = 3000
    var rows = ExtentMap<Placement>()
    for region in 0..<regions {
      rows.insert(sectors(region * regionSectors, region * regionSectors + 8), frame(region))
    }
    try machine.commit([(layer, rows)])
    var trim = ExtentMap<Placement>()
    let whole = SectorRange(start: 0, count: 1 << 38)
    trim.insert(whole, .trim)
    try machine.commit([(layer, trim)])
    func pieces() throws -> [Placement] {
      var found: [Placement] = []
      try machine.tables.look(layer, whole) { found.append($1) }
      return found
    }
    #expect(try pieces() == [.trim])
    var slices = 0
    while try machine.tables.sweep() {
      slices += 1
      // A write in the middle of what is being swept, a region further each time.
      var write = ExtentMap<Placement>()
      write.insert(
        sectors(slices * 200 * regionSectors + 100, slices * 200 * regionSectors + 101), frame(9999))
      try machine.commit([(layer, write)])
    }
    #expect(slices > 1, "it goes in more than one transaction")
    let found = try pieces()
    #expect(found.filter { $0 == frame(9999) }.count == slices)
    #expect(!found.contains { if case .frame = $0 { $0 != frame(9999) } else { false } })
    #expect(try machine.liveFrames().values.allSatisfy { $0 == UInt32(slices) })
    // Trimmed again, over all the pieces of the range row.
    try machine.commit([(layer, trim)])
    while try machine.tables.sweep() {}
    #expect(try pieces() == [.trim])
  }

  @Test(
    "no transaction dirties more pages than it may: random rows, split rows, sweeps, range rows in pieces")
  func dirtyPages() throws {
    let pagesMax = 700
    var machine = try ModelTables(seed: 7, regions: 1, pagesMax: pagesMax)
    let spread = 40_000
    // While it lives no page is reused, so the file grows by every page that a transaction dirties.
    let reader = try machine.tables.environment.beginRead()
    defer { reader.reset() }
    /// The largest transaction so far, after this one or these.
    func pages(_ map: ExtentMap<Placement>) throws -> Int {
      try machine.commit([(layer, map)])
      for _ in 0..<50 where try machine.tables.sweep() {}
      return machine.tables.environment.addedPagesMax
    }
    // In order, so that every page is full; then one row of each page grows, so that each is copied and split.
    var rows = ExtentMap<Placement>()
    for region in 0..<spread { rows.insert(sectors(region * 1024, region * 1024 + 1), frame(region)) }
    var more = ExtentMap<Placement>()
    for region in stride(from: 0, to: spread, by: 90) {
      for piece in 0..<20 {
        let start = region * 1024 + piece * 2
        more.insert(sectors(start, start + 1), frame(start))
      }
    }
    var largest = [try pages(rows), try pages(more)]
    #expect(largest[1] > pagesMax / 6, "the test does not reach what it tests")
    var split = ExtentMap<Placement>()
    for region in stride(from: 0, to: spread, by: 397) {
      for sector in stride(from: 0, to: 1024, by: 2) {
        split.insert(sectors(region * 1024 + sector, region * 1024 + sector + 1), frame(region + sector))
      }
    }
    var trim = ExtentMap<Placement>()
    trim.insert(sectors(0, spread * 1024), .trim)
    for map in [split, trim, more, trim] { largest.append(try pages(map)) }
    #expect(largest.allSatisfy { $0 <= pagesMax }, "\(largest)")
  }

  @Test("the budget counts a leaf and its split for each row and no more branches than there are")
  func budget() {
    let none = PageBudget.Tree(depth: 0, branchPages: 0)
    var small = PageBudget(
      map: PageBudget.Tree(depth: 3, branchPages: 10), ranges: none, frames: none)
    var rows = 0
    while small.spend(map: 1, ranges: 0, others: 0) { rows += 1 }
    #expect(rows == (4096 - 256 - 20) / 2)
    var large = PageBudget(
      map: PageBudget.Tree(depth: 4, branchPages: 100_000), ranges: none, frames: none)
    rows = 0
    while large.spend(map: 9, ranges: 3, others: 0) { rows += 1 }
    #expect(rows == (4096 - 256) / (9 * 2 + 3 * 2 + 3 * 2))
    var first = PageBudget(
      pagesMax: 10, map: PageBudget.Tree(depth: 4, branchPages: 100),
      ranges: PageBudget.Tree(depth: 4, branchPages: 9), frames: none)
    let fits = [first.spend(map: 9, ranges: 3, others: 1), first.spend(map: 1, ranges: 0, others: 0)]
    #expect(fits == [true, false], "the first change must always fit")
  }
}
