import Bytes
import ExtentJournal
import Foundation
import TestKit
import Testing

// Goal: a huge trim or zero costs next to nothing and is right, whatever is written into it and however the journal ends.
// Method: a disk of 16 TiB; then random histories of huge trims, zeroes and writes on a smaller one, against a model, with
// the transactions of the index made small, some of them failing, crashes, and the index thrown away.

@Suite struct IndexTrimTests {
  private let size: UInt64 = 16 << 40

  private func content(_ fixture: JournalFixture, at offset: UInt64) throws -> [UInt8] {
    try fixture.disk.bytes(ByteRange(offset: offset, count: 3 * UInt64(indexBlock)))
  }

  @Test(
    "a trimmed disk of 16 TiB takes writes, and is the same after a close, a crash and the loss of its index")
  func hugeDisk() throws {
    let fixture = try JournalFixture()
    try fixture.makeDisk("d", byteCount: size, mode: .device)
    let block = UInt64(indexBlock)
    let places = (0..<40 as Range<UInt64>).map { $0 * (size / 40) / block * block + block }
    for (number, place) in places.enumerated() { try fixture.disk.write(indexPattern(number), at: place) }
    try fixture.journal.checkpoint()
    // All of it goes, but for edges inside a region.
    let hole = ByteRange(start: places[0] + block, end: size - 512)
    try fixture.disk.trim(hole, durable: false).wake()
    try fixture.journal.checkpoint()
    for place in places.dropFirst() { #expect(try content(fixture, at: place).allSatisfy { $0 == 0 }) }
    for number in [3, 20] { try fixture.disk.write(indexPattern(number + 100), at: places[number]) }
    try fixture.disk.writeZeroes(
      ByteRange(offset: places[20], count: block / 2), mayTrim: false, durable: false
    )
    .wake()
    try fixture.journal.checkpoint()
    #expect(try fixture.journal.status().indexBytes < 1 << 20)

    let half = indexBlock / 2
    func check() throws {
      #expect(try content(fixture, at: places[0]).prefix(indexBlock) == indexPattern(0)[...])
      for (number, place) in places.enumerated().dropFirst() {
        var wanted = [UInt8](repeating: 0, count: indexBlock)
        if number == 3 { wanted = indexPattern(103) }
        if number == 20 { wanted.replaceSubrange(half..<indexBlock, with: indexPattern(120).suffix(half)) }
        #expect(try content(fixture, at: place) == wanted + [UInt8](repeating: 0, count: 2 * indexBlock))
      }
      let runs = try fixture.disk.status(
        ByteRange(offset: places[3] - 2 * block, count: 4 * block), asWriter: false, limit: 10)
      #expect(
        runs.map(\.byteCount) == [2 * block, block, block] && runs.map(\.isHole) == [true, false, true])
    }
    try check()
    try fixture.close()
    try fixture.open()
    try check()
    fixture.crash()
    try fixture.open()
    try check()
    try fixture.close()
    try FileManager.default.removeItem(atPath: fixture.path + "/index/data.mdb")
    try fixture.open()
    try check()
  }

  @Test(
    "random huge trims and zeroes with writes into them, through failing commits and crashes",
    arguments: seeds(6))
  func histories(seed: UInt64) throws {
    let setup = try IndexSetup()
    setup.fixture.crash()
    setup.fixture.host.indexPagesMax = 300
    try setup.fixture.open()
    var random = SeededGenerator(seed: seed)
    let regions = 64
    var model = [UInt8](repeating: 0, count: regions * 1024)  // the byte that fills a sector
    func check() throws {
      let range = ByteRange(start: 0, end: UInt64(regions) << 19)
      let bytes = try setup.fixture.disk.bytes(range)
      let found = (0..<model.count).map { bytes[$0 * 512 + 77] }
      #expect(found == model, "seed \(seed)")
    }
    for step in 0..<120 {
      let isHuge = Int.random(in: 0..<3, using: &random) == 0
      let count = Int.random(in: 1...(isHuge ? model.count : 60), using: &random)
      let start = Int.random(in: 0...model.count - count, using: &random)
      let range = ByteRange(offset: UInt64(start) * 512, count: UInt64(count) * 512)
      var fill: UInt8 = 0
      switch Int.random(in: 0..<2, using: &random) {
      case _ where !isHuge:
        fill = UInt8(step + 1)
        try setup.fixture.disk.write([UInt8](repeating: fill, count: count * 512), at: range.start)
      case 0: try setup.fixture.disk.trim(range, durable: false).wake()
      default: try setup.fixture.disk.writeZeroes(range, mayTrim: false, durable: false).wake()
      }
      for sector in start..<start + count { model[sector] = fill }
      switch Int.random(in: 0..<24, using: &random) {
      case 0..<6: try setup.fixture.journal.checkpoint()
      case 6..<8:
        // A crash between two transactions of a commit.
        setup.plan.next([0, 28])
        do { try setup.fixture.journal.checkpoint() } catch {}
        setup.fixture.crash()
        setup.plan.next([])
        try setup.fixture.open()
      case 8:
        setup.plan.next([5])
        try setup.fixture.journal.checkpoint()
      case 9:
        try setup.fixture.close()
        if Bool.random(using: &random) {
          try FileManager.default.removeItem(atPath: setup.fixture.path + "/index/data.mdb")
        }
        try setup.fixture.open()
      case 10: try check()
      default: break
      }
    }
    try check()
    try setup.fixture.journal.checkpoint()
    try check()
  }
}
