import Bytes
import ExtentJournal
import Foundation
import TestKit
import Testing

// Goal: a device disk and each of its checkpoints hold, byte for byte, what was written when, whatever happened in between.
// Method: random histories of writes, zeroes and trims from one byte to the whole of a disk of ten regions, with seals, drops,
// upkeep, index commits, kills, closes and lost indexes, against arrays of bytes. Views, block status, what changed, images
// and `verify` are compared. Seeds are printed, and the same seed is the same history.

@Suite struct CheckpointModelTests {
  @Test("random histories of a disk and its checkpoints agree with a model", arguments: seeds(4))
  func histories(seed: UInt64) throws {
    print("checkpoint history: seed \(seed)")
    var history = try CheckpointHistory(seed: seed)
    try history.run()
  }
}

private struct CheckpointHistory {
  /// Whole regions, so that range rows are among the rows, and a tail.
  private static let byteCount = (10 << 19) + 3 * 512

  private let seed: UInt64
  private var random: SeededGenerator
  private let fixture: JournalFixture
  private var disk = [UInt8](repeating: 0, count: byteCount)
  private var sealed: [(name: String, content: [UInt8])] = []
  private var sealCount = 0

  init(seed: UInt64) throws {
    self.seed = seed
    random = SeededGenerator(seed: seed)
    fixture = try JournalFixture { if seed % 3 == 0 { $0.keptGenerations = 4 } }
    try fixture.close()
    fixture.host.segmentBytesMax = 1 << 20
    fixture.host.upkeepLimits.punchedBytesMin = 4 << 10
    fixture.host.upkeepLimits.retiredBytesMin = 20 << 10
    fixture.host.upkeepLimits.compactedBytesMin = 0
    fixture.host.upkeepLimits.slackBytes = 0
    try fixture.open()
    try fixture.makeDisk("d", byteCount: UInt64(Self.byteCount), mode: .device)
  }

  private var note: String { "seed \(seed), \(sealCount) seals" }

  mutating func run() throws {
    for _ in 0..<110 {
      switch Int.random(in: 0..<24, using: &random) {
      case 0..<8: try write()
      case 8..<10: try clear(isTrim: false)
      case 10..<13: try clear(isTrim: true)
      case 13..<16: try seal()
      case 16: try drop()
      case 17: try fixture.journal.checkpoint()
      case 18: _ = try fixture.journal.upkeep()
      case 19: try restart(byCrash: true)
      case 20: try restart(byCrash: false)
      default: try check()
      }
    }
    try check()
    #expect(try fixture.journal.livenessFlaw() == nil, "\(note)")
    try fixture.close()
    try checkImages()
    let report = try Verification.run(on: JournalReader.open(fixture.path), progress: { _, _ in })
    #expect(report.flawCount == 0, "\(note): \(report.flaws)")
    #expect(report.seals == UInt64(sealed.count), "\(note)")
    print("checkpoint history: seed \(seed): \(sealCount) seals, \(sealed.count) left")
  }

  // MARK: - Steps

  private mutating func range(upTo most: Int) -> Range<Int> {
    let start = Int.random(in: 0..<Self.byteCount, using: &random)
    let count =
      Bool.random(using: &random)
      ? Int.random(in: 1...1500, using: &random) : Int.random(in: 1...most, using: &random)
    return start..<min(Self.byteCount, start + count)
  }

  private mutating func write() throws {
    let range = range(upTo: 200 << 10)
    let fill = UInt8.random(in: 0...255, using: &random)
    let payload = [UInt8](repeating: fill, count: range.count)
    try fixture.disk.write(payload, at: UInt64(range.lowerBound))
    set(range, to: fill)
  }

  private mutating func clear(isTrim: Bool) throws {
    var range = range(upTo: 3 << 20)
    if Int.random(in: 0..<8, using: &random) == 0 { range = 0..<Self.byteCount }
    let bytes = ByteRange(start: UInt64(range.lowerBound), end: UInt64(range.upperBound))
    if isTrim {
      try fixture.disk.trim(bytes, durable: false).wake()
      let inner = bytes.enclosedSectors
      if !inner.isEmpty { set(Int(inner.bytes.start)..<Int(inner.bytes.end), to: 0) }
    } else {
      try fixture.disk.writeZeroes(bytes, mayTrim: Bool.random(using: &random), durable: false).wake()
      set(range, to: 0)
    }
  }

  private mutating func set(_ range: Range<Int>, to byte: UInt8) {
    disk.withUnsafeMutableBytes { all in
      _ = UnsafeMutableRawBufferPointer(rebasing: all[range]).initializeMemory(
        as: UInt8.self, repeating: byte)
    }
  }

  private mutating func seal() throws {
    sealCount += 1
    let name = "c\(sealCount)"
    try fixture.disk.seal(as: name)
    sealed.append((name, disk))
    if let kept = fixture.options.keptGenerations, sealed.count > kept {
      sealed.removeFirst(sealed.count - kept)
    }
    // What a test can hold.
    while sealed.count > 12 {
      try fixture.journal.drop(sealed[0].name, of: "d")
      sealed.removeFirst()
    }
  }

  private mutating func drop() throws {
    guard sealed.count > 1 else { return }
    let index = Int.random(in: 0..<sealed.count - 1, using: &random)
    try fixture.journal.drop(sealed[index].name, of: "d")
    sealed.remove(at: index)
  }

  private mutating func restart(byCrash: Bool) throws {
    if byCrash { fixture.crash() } else { try fixture.close() }
    if Bool.random(using: &random) { try fixture.removeIndex() }
    try fixture.open()
    #expect(try fixture.journal.status().damage == nil, "\(note)")
    try check()
  }

  // MARK: - Looking

  private mutating func check() throws {
    #expect(fixture.journal.generations.compactMap(\.generationName) == sealed.map(\.name), "\(note)")
    try check(fixture.disk, disk, "the disk", asWriter: true)
    for index in sealed.indices.shuffled(using: &random).prefix(4) {
      let (name, content) = sealed[index]
      let generation = try fixture.journal.generation(of: "d", named: name)
      #expect(generation.isSealed, "\(note): \(name)")
      try check(generation, content, name, asWriter: false)
      try checkChanges(index)
    }
  }

  private mutating func check(_ handle: Disk, _ content: [UInt8], _ name: String, asWriter: Bool) throws {
    for _ in 0..<4 {
      let range = range(upTo: 1 << 20)
      let bytes = ByteRange(start: UInt64(range.lowerBound), end: UInt64(range.upperBound))
      let found = try asWriter ? handle.bytes(bytes) : handle.view(bytes)
      let isRight = areEqual(found, content, range)
      #expect(isRight, "\(note): \(name), bytes \(range)")
      var at = range.lowerBound
      for run in try handle.status(bytes, asWriter: asWriter, limit: .max - 1) {
        let end = at + Int(run.byteCount)
        if run.isZero {
          #expect(isZero(content, at..<end), "\(note): \(name), bytes \(at) to \(end) are no zeroes")
        }
        at = end
      }
      #expect(at == range.upperBound, "\(note): \(name)")
    }
  }

  /// Who has the one before and copies what changed has this one.
  private func checkChanges(_ index: Int) throws {
    // What it took in when the one before was dropped counts as its own.
    var copy = index == 0 ? [UInt8](repeating: 0, count: Self.byteCount) : sealed[index - 1].content
    let (name, content) = sealed[index]
    let whole = ByteRange(start: 0, end: UInt64(Self.byteCount))
    var at = 0
    for run in try fixture.journal.generation(of: "d", named: name).changes(whole, limit: .max - 1) {
      let end = at + Int(run.byteCount)
      if run.value { copy.replaceSubrange(at..<end, with: content[at..<end]) }
      at = end
    }
    let isRight = areEqual(copy, content, 0..<Self.byteCount)
    #expect(isRight, "\(note): what changed in \(name) is not all")
  }

  private func checkImages() throws {
    let output = fixture.directory.file("out")
    for (name, content) in sealed.map({ ("d@\($0.name)", $0.content) }) + [("d", disk)] {
      _ = try Replay.toRawFile(
        from: JournalReader.open(fixture.path), disk: name, output: output)
      let image = try Data(contentsOf: URL(fileURLWithPath: output))
      let isRight = content.withUnsafeBytes { expected in
        image.withUnsafeBytes {
          $0.count == expected.count && memcmp($0.baseAddress!, expected.baseAddress!, $0.count) == 0
        }
      }
      #expect(isRight, "\(note): the image of \(name)")
    }
  }

  private func areEqual(_ bytes: [UInt8]?, _ content: [UInt8], _ range: Range<Int>) -> Bool {
    guard let bytes else { return false }
    return bytes.withUnsafeBytes { found in
      content.withUnsafeBytes {
        memcmp(found.baseAddress!, $0.baseAddress! + range.lowerBound, range.count) == 0
      }
    }
  }

  private func isZero(_ content: [UInt8], _ range: Range<Int>) -> Bool {
    content.withUnsafeBytes { all in !UnsafeRawBufferPointer(rebasing: all[range]).contains { $0 != 0 } }
  }
}
