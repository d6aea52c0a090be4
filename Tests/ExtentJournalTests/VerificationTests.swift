import Bytes
import ExtentJournal
import Foundation
import TestKit
import Testing

// Goal: a verification finds what is not as it was sealed, names the place, and finds nothing where nothing is wrong; a
// seal speaks of content and not of how it is stored.

@Suite struct VerificationTests {
  typealias Setup = GenerationSetup

  @Test("the same content has the same seal, in whatever pieces and order it was written")
  func storageIndependence() throws {
    var summaries: [SealSummary] = []
    for way in 0..<3 {
      let setup = try Setup()
      let disk = setup.fixture.disk
      let all = (0..<Setup.blockCount).flatMap { (index: UInt64) -> [UInt8] in
        index == 3 ? [UInt8](repeating: 0, count: Int(Setup.block)) : Setup.content(index, 1)
      }
      // Whole, in pieces from the end on with zeroes as such, or in odd pieces with the index in between.
      let size = [all.count, 4096, 3 * 4096][way]
      for start in stride(from: 0, to: all.count, by: size).reversed() {
        let piece = Array(all[start..<min(start + size, all.count)])
        if way == 1, piece.allSatisfy({ $0 == 0 }) {
          let range = ByteRange(offset: UInt64(start), count: UInt64(piece.count))
          try disk.writeZeroes(range, mayTrim: true, durable: false).wake()
        } else {
          try disk.write(piece, at: UInt64(start))
        }
        if way == 2, start == 30 * 4096 { try setup.journal.checkpoint() }
      }
      try disk.seal(as: "a")
      summaries.append(try #require(disk.sealRecord).summary)
    }
    #expect(
      summaries[0].agrees(with: summaries[1]) && summaries[0].agrees(with: summaries[2]), "\(summaries)")
    #expect(summaries[0].hash != 0 && summaries[0].coverage != 0)
  }

  @Test("other content, content at another place and another coverage have other seals")
  func sensitivity() throws {
    func summary(_ change: (inout SealDigestInput) -> Void) throws -> SealSummary {
      var input = SealDigestInput()
      change(&input)
      let setup = try Setup()
      try setup.full("base", version: 2)
      let disk = try setup.incremental("i", on: "base", bitmap: input.bitmap)
      for (index, source) in zip(input.bitmap, input.sources) {
        try disk.write(Setup.content(source, input.version), at: index * Setup.block)
      }
      try disk.seal()
      return try #require(disk.sealRecord).summary
    }
    let first = try summary { _ in }
    #expect(try summary { _ in } == first)
    #expect(try !summary { $0.version = 3 }.agrees(with: first))
    #expect(try !summary { $0.sources = [3, 2] }.agrees(with: first), "exchanged blocks")
    #expect(try !summary { $0.bitmap = 3..<5 }.agrees(with: first), "moved")
  }

  private struct SealDigestInput {
    var bitmap: Range<UInt64> = 2..<4
    var sources: [UInt64] = [2, 3]
    var version = 1
  }

  @Test("a seal comes through its text, whatever the names hold, and other text is no seal")
  func sealText() throws {
    var summary = SealSummary()
    summary.hash = .max
    summary.coverage = 1
    summary.dataBytes = 512
    let record = SealRecord(
      name: "a", job: "quote \" back \\ line \n bell \u{7} ü 😀", kind: .incremental, base: "b",
      byteCount: .max,
      summary: summary)
    #expect(SealRecord(record.encoded) == record)
    let text = String(decoding: record.encoded, as: UTF8.self)
    #expect(try JSONSerialization.jsonObject(with: Data(record.encoded)) is [String: Any], "\(text)")
    for broken in [
      "", "{", "{}", text + "x", String(text.dropLast()),
      text.replacing("\"version\":1", with: "\"version\":2"),
    ] {
      #expect(SealRecord(Array(broken.utf8)) == nil, "\(broken)")
    }
    for end in 0..<record.encoded.count { #expect(SealRecord(Array(record.encoded[..<end])) == nil) }
  }

  private func chain(_ setup: Setup) throws {
    try setup.full("monday")
    let disk = try setup.incremental("tuesday", on: "monday", bitmap: 2..<4)
    try setup.write(2..<4, 2, to: disk)
    try disk.seal()
  }

  @Test("a flipped bit in any frame is found, and the generation and range are named")
  func flippedBit() throws {
    let setup = try Setup()
    try chain(setup)
    try setup.fixture.close()
    #expect(try setup.verify().flawCount == 0)
    let path = try #require(setup.fixture.segmentPaths.last)
    let whole = try Data(contentsOf: URL(fileURLWithPath: path))
    var found = 0
    // The first stored bytes of each frame: its header says where it begins.
    var from = whole.startIndex
    while let frame = whole.range(of: Data("SPWF".utf8), in: from..<whole.endIndex) {
      from = frame.upperBound
      // The directory repeats headers; nothing is stored behind those.
      guard frame.lowerBound % 16 == 0, whole.range(of: Data("SPWC".utf8), in: from..<whole.endIndex) != nil
      else {
        continue
      }
      var bytes = whole
      bytes[frame.lowerBound + 90] ^= 1
      try bytes.write(to: URL(fileURLWithPath: path))
      let report = try setup.verify()
      guard report.flawCount > 0 else { continue }
      found += 1
      for flaw in report.flaws {
        #expect(
          flaw.disk == "d" && ["monday", "tuesday"].contains(flaw.generation ?? "") && flaw.offset != nil,
          "\(flaw)"
        )
      }
    }
    #expect(found >= 2, "a frame of each generation at least")
    try whole.write(to: URL(fileURLWithPath: path))
    #expect(try setup.verify().flawCount == 0)
  }

  @Test("an index that points to other frames than what was sealed is found by the seal")
  func wrongRow() throws {
    let setup = try Setup()
    try chain(setup)
    try setup.fixture.close()
    // The row of region 0 of generation 3 says one thing more of its own: a base entry becomes a zero.
    let path = setup.fixture.path + "/index/data.mdb"
    var data = try Data(contentsOf: URL(fileURLWithPath: path))
    let layer = LayerKey(disk: DiskID(number: 1), generation: GenerationID(number: 3))
    let key = Data(RegionRow.key(layer, region: 0, part: 0))
    var from = data.startIndex
    var hits = 0
    while let hit = data.range(of: key, in: from..<data.endIndex) {
      from = hit.upperBound
      let entry = IndexEntry(start: 0, count: 256, placement: .base)
      let row = RegionRow.encode([entry])[0].value
      guard
        let place = data.range(
          of: Data(row[4...]), in: hit.upperBound..<min(hit.upperBound + 64, data.endIndex))
      else { continue }
      let zero = IndexEntry(start: 0, count: 256, placement: .zero)
      data.replaceSubrange(place, with: Data(RegionRow.encode([zero])[0].value[4...]))
      hits += 1
    }
    #expect(hits > 0)
    try data.write(to: URL(fileURLWithPath: path))
    let report = try setup.verify()
    #expect(report.flawCount == 1 && report.flaws[0].generation == "tuesday", "\(report.flaws)")
    #expect(report.flaws.first?.message.contains("sealed") == true)
    try JournalReader.abandonIndex(of: setup.fixture.path)
    try setup.fixture.open()
    try setup.fixture.close()
    #expect(try setup.verify().flawCount == 0, "the index was built again")
  }
}
