import BlockFile
import Bytes
import ExtentJournal
import Foundation
import LMDB
import TestKit
import Testing

// Goal: a frame that a large read wants whole comes from its segment right or not at all, and leaves the cache alone.
// Method: frames of 128 KiB, some of which cannot be compressed, some of which were overwritten in part, are read in every
// way beside a model; reads of the segment files are counted; bytes of frames and rows of the index are falsified.

private let frameByteCount: UInt64 = 128 << 10
private let frameCount: UInt64 = 32

/// Frame `number` as it is written first; every fourth is not compressible.
private func frame(_ number: UInt64, version: UInt64 = 0) -> [UInt8] {
  var random = SeededGenerator(seed: number &* 100 &+ version)
  let words = (0..<frameByteCount / 8).map { word in
    number % 4 == 0 ? random.next() : word / 9 &+ number << 20 &+ version
  }
  return words.withUnsafeBytes { Array($0) }
}

@Suite("Frames that are wanted whole") struct WholeFrameTests {
  private let fixture: JournalFixture
  private var model: [UInt8] = []

  init() throws {
    fixture = try JournalFixture()
    fixture.crash()
    fixture.host.auditRowsPerCommit = 0
    try fixture.open()
    try fixture.makeDisk("d", byteCount: frameCount * frameByteCount, mode: .device)
    for number in 0..<frameCount {
      try fixture.disk.write(frame(number), at: number * frameByteCount)
      model += frame(number)
    }
    try fixture.journal.checkpoint()
  }

  /// Opens the journal anew, so that nothing is in the cache, over a store that counts.
  private func reopened() throws -> CountingStore {
    try fixture.close()
    let store = CountingStore(POSIXDirectory(path: fixture.path + "/segments"))
    fixture.host.segments = store
    try fixture.open()
    return store
  }

  private func whole(_ number: UInt64, count: UInt64 = 1) -> ByteRange {
    ByteRange(offset: number * frameByteCount, count: count * frameByteCount)
  }

  private func check(_ range: ByteRange, _ what: String = "") throws {
    // Outside of the expectation, which would look long for what differs.
    let isRight = try fixture.disk.bytes(range) == Array(model[Int(range.start)..<Int(range.end)])
    #expect(isRight, "\(range) \(what)")
  }

  @Test("are not kept; what a small read takes of them is, and serves large reads too")
  func cache() throws {
    let store = try reopened()
    let before = store.readCount
    try check(whole(4, count: 2))
    try check(whole(4, count: 2))
    #expect(store.readCount - before == 4, "a frame was kept")
    try check(ByteRange(offset: 4 * frameByteCount + 5000, count: 700))
    try check(whole(4))
    try check(ByteRange(offset: 4 * frameByteCount, count: 64 << 10))
    #expect(store.readCount - before == 5, "a frame that is kept was read again")
    // A large read that takes a part of a frame keeps it, and the one that it takes all of not.
    try check(ByteRange(offset: 6 * frameByteCount + 4096, count: 2 * frameByteCount - 4096))
    try check(whole(6))
    #expect(store.readCount - before == 7)
    try check(whole(7))
    #expect(store.readCount - before == 8)
  }

  @Test(
    "and those that are wanted in part, by reads of any size, read as they were written", arguments: seeds(4))
  func anyRange(seed: UInt64) throws {
    var test = self
    var random = SeededGenerator(seed: seed)
    // Tails, heads and middles die.
    for number in stride(from: 0, to: frameCount, by: 3) {
      let parts = [(32768, 131072), (0, 65536), (40960, 45056), (66048, 131072)]
      let (from, to) = parts.randomElement(using: &random)!
      let bytes = Array(frame(number, version: seed)[from..<to])
      let start = number * frameByteCount + UInt64(from)
      try fixture.disk.write(bytes, at: start)
      test.model.replaceSubrange(Int(start)..<Int(start) + bytes.count, with: bytes)
    }
    try fixture.journal.checkpoint()
    _ = try reopened()
    for turn in 0..<400 {
      let unit: UInt64 = [1, 512, 4096, 65536, frameByteCount].randomElement(using: &random)!
      let start = UInt64.random(in: 0..<UInt64(model.count) / unit, using: &random) * unit
      let most = min(UInt64(model.count) - start, 5 * frameByteCount) / unit
      let range = ByteRange(offset: start, count: UInt64.random(in: 1...most, using: &random) * unit)
      try test.check(range, "seed \(seed), turn \(turn)")
    }
  }

  /// Where frames begin in the one segment, in the order of the disk.
  private func places(_ bytes: Data) -> [Int] {
    stride(from: 0, to: bytes.count - 4, by: 16).filter { bytes[$0..<$0 + 4] == Data("SPWF".utf8) }
  }

  @Test("and are damaged in their header or their bytes fail the reads that need them, and no others")
  func damage() throws {
    let segment = URL(fileURLWithPath: fixture.segmentPaths[0])
    let bytes = try Data(contentsOf: segment)
    let frames = places(bytes)
    try #require(frames.count == Int(frameCount))
    for (number, at) in [(4, 9), (5, 9), (4, 60), (5, 60), (8, 100_000), (9, 300)] {
      var spoilt = bytes
      spoilt[frames[number] + at] ^= 0x10
      try fixture.close()
      try spoilt.write(to: segment)
      try fixture.open()
      let error = #expect(throws: JournalError.self) { try fixture.disk.bytes(whole(UInt64(number))) }
      #expect(error?.kind == .damaged, "frame \(number), byte \(at)")
      #expect(throws: JournalError.self) { try fixture.disk.bytes(whole(UInt64(number) - 2, count: 5)) }
      for other in 0..<frameCount where other != number { try check(whole(other), "beside \(number)") }
    }
  }

  @Test(
    "and that the index names by mistake are found out: it is built again, and what then comes is right")
  func falseRow() throws {
    try fixture.close()
    do {
      let environment = try LMDBEnvironment(path: fixture.path + "/index", databases: 8, readOnly: false)
      let map = try environment.open("map", create: false)
      let layer = LayerKey(disk: DiskID(number: 1), generation: GenerationID(number: 1))
      let key = RegionRow.key(layer, region: 0, part: 0)
      try environment.write { (transaction) throws(LMDBError) in
        let value = try transaction.get(map, key) ?? []
        var entries = RegionRow.decode(value.span.bytes) ?? []
        (entries[0].placement, entries[1].placement) = (entries[1].placement, entries[0].placement)
        try transaction.put(map, key, RegionRow.encode(entries)[0].value)
      }
    }
    try fixture.open()
    try check(whole(0, count: 4))
    #expect(fixture.messages.all.contains { $0.contains("the index is built again") })
  }
}
