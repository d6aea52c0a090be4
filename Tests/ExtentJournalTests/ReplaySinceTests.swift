import Bytes
import ExtentJournal
import Foundation
import TestKit
import Testing

// Goal: an image of an older generation becomes that of a newer one by what is written, and little more is written than
// what changed between them.
// Method: chains of generations; images of each are brought to each later one, whole ones compared, and the writes counted.
// Also when generations between them were dropped, and when the chain was flattened. The journal is closed before it is
// read, for LMDB's file must not be open twice in one process.

@Suite("a replay since a generation") struct ReplaySinceTests {
  typealias Setup = GenerationSetup

  /// An image in memory that counts what is written to it.
  private final class Image: ImageSink, ImageReader {
    var bytes: [UInt8]
    var writtenBytes: UInt64 = 0
    var isFinished = false

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    func write(_ span: RawSpan, at offset: UInt64) {
      for index in 0..<span.byteCount {
        bytes[Int(offset) + index] = span.bigEndian(at: index, as: UInt8.self)
      }
      writtenBytes += UInt64(span.byteCount)
    }

    func writeZeroes(_ range: ByteRange) {
      for index in Int(range.start)..<Int(range.end) { bytes[index] = 0 }
      writtenBytes += range.count
    }

    func finish() { isFinished = true }

    func read(into target: inout MutableRawSpan, at offset: UInt64) {
      for index in 0..<target.byteCount {
        target.storeBytes(of: bytes[Int(offset) + index], toByteOffset: index, as: UInt8.self)
      }
    }
  }

  private func update(_ image: Image, to name: String, since older: String, _ setup: Setup) throws {
    let reader = try JournalReader.open(setup.fixture.path)
    let replay = try Replay(of: "d@\(name)", from: reader, since: older, tainted: false)
    let report = try replay.write(to: image) { _, _ in }
    #expect(report.dataBytes + report.zeroBytes == image.writtenBytes)
    #expect(report.unchangedBytes + image.writtenBytes == Setup.byteCount)
    #expect(image.isFinished)
    try replay.compare(with: image) { _, _ in }
  }

  @Test("brings each image of a chain to each later one, and writes what changed between them")
  func chain() throws {
    let setup = try Setup()
    let names = try setup.chain(6)
    try setup.fixture.close()
    let images = try names.map { try setup.image("d@\($0)") }
    for older in 0..<5 {
      for newer in older + 1..<6 {
        let image = Image(images[older])
        try update(image, to: names[newer], since: names[older], setup)
        let isEqual = image.bytes == images[newer]
        #expect(isEqual, "\(names[older]) to \(names[newer])")
        #expect(image.writtenBytes == UInt64(newer - older) * 2 * Setup.block)
      }
    }
  }

  @Test("goes on when what lies between was dropped", arguments: [1, 2, 3])
  func dropped(index: Int) throws {
    let setup = try Setup()
    let names = try setup.chain(5)
    try setup.fixture.close()
    let image = Image(try setup.image("d@monday"))
    let last = try setup.image("d@day4")
    try setup.fixture.open()
    try setup.journal.drop(names[index], of: "d")
    try setup.fixture.close()
    try update(image, to: "day4", since: "monday", setup)
    let isEqual = image.bytes == last
    #expect(isEqual)
    #expect(image.writtenBytes == 4 * 2 * Setup.block, "what was taken in has changed as well")
  }

  @Test("goes on over a generation that has taken in all that it stood on")
  func flattened() throws {
    let setup = try Setup()
    let names = try setup.chain(12) { _ in 3 }
    let all = try #require(try setup.journal.status().disks.first).generations
    try setup.fixture.close()
    #expect(all.dropFirst().contains { $0.base == nil }, "one was flattened")
    for older in [0, 3, 7, 9, 10] {
      let image = Image(try setup.image("d@\(names[older])"))
      try update(image, to: names[11], since: names[older], setup)
      let isEqual = try image.bytes == setup.image("d@\(names[11])")
      #expect(isEqual, "since \(names[older])")
      // Of what was taken in, zeroes do not say whose they were: they are written again.
      let isBelow = all.firstIndex { $0.base == nil && $0.name != "monday" }.map { older < $0 } ?? false
      let zeroBlocks: UInt64 = isBelow ? 8 : 0
      #expect(image.writtenBytes == (2 + zeroBlocks) * Setup.block, "since \(names[older])")
    }
  }

  @Test("leaves alone what did not change, and the comparison finds out when that was not what it should be")
  func trust() throws {
    let setup = try Setup()
    try setup.chain(2)
    try setup.fixture.close()
    let image = Image(try setup.image("d@monday"))
    image.bytes[6 << 16] ^= 1
    let broken = image.bytes[6 << 16]
    let reader = try JournalReader.open(setup.fixture.path)
    let replay = try Replay(of: "d@day1", from: reader, since: "monday", tainted: false)
    _ = try replay.write(to: image) { _, _ in }
    #expect(image.bytes[6 << 16] == broken)
    let said = #expect(throws: JournalError.self) { try replay.compare(with: image) { _, _ in } }
    #expect(said?.kind == .failed && said?.message.contains("at byte \(6 << 16)") == true)
    // And in what is zero.
    image.bytes[6 << 16] ^= 1
    image.bytes[(12 << 16) + 7] = 1
    let zero = #expect(throws: JournalError.self) { try replay.compare(with: image) { _, _ in } }
    #expect(zero?.message.contains("at byte \((12 << 16) + 7)") == true)
  }

  @Test("of what is no sealed generation below it is refused")
  func refusals() throws {
    let setup = try Setup()
    try setup.chain(3)
    try setup.full("friday")
    _ = try setup.incremental("open", on: "friday", bitmap: 0..<1)
    try setup.fixture.close()
    let reader = try JournalReader.open(setup.fixture.path)
    for (name, since) in [
      ("d@day1", "day2"), ("d@day1", "day1"), ("d@day2", "none"), ("d@friday", "day2"), ("d@day2", "live"),
      ("d@friday", "open"),
    ] {
      #expect(
        failure { _ = try Replay(of: name, from: reader, since: since, tainted: false) } == .usage,
        "\(name) since \(since)")
    }
    _ = try Replay(of: "d@day2", from: reader, since: "monday", tainted: false)
  }
}
