import Bytes
import ExtentJournal
import Foundation
import TestKit
import Testing

// Goal: a journal that any released version wrote is read by this one, and this one writes no other bytes than the format
// says.
// Method: journals kept in Golden/VERSION, never written anew; each is opened, compared with what was written then, and
// taken apart and put together again item by item. A new version of the format, or a new meaning of what it has, adds a folder:
// run the tests with SPILLWAY_WRITE_GOLDEN=VERSION once. (The index is no part of it: it is rebuilt.)

private let golden = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent(
  "Golden")

/// What the golden journals hold, by disk.
private struct GoldenContent {
  var device = [UInt8](repeating: 0, count: 1 << 20)
  var snapshot = [UInt8](repeating: 0, count: 256 << 10)

  /// What the generations of the disk `chain` show; version 1.0 had none.
  var generations: [(name: String, bytes: [UInt8])] = []

  /// What the checkpoints of the disk `device` show; at first there were none.
  var checkpoints: [(name: String, bytes: [UInt8])] = []

  /// Carries out the history of `version`, on `journal` too if there is one.
  init(_ journal: Journal?, version: String) throws {
    let disks = try journal.map {
      (
        try $0.disk("device", byteCount: 1 << 20, mode: .device),
        try $0.disk("snapshot", byteCount: 256 << 10, mode: .snapshot)
      )
    }
    var random = SeededGenerator(seed: 1)
    let noise = (0..<16384).map { _ in UInt8.random(in: 0...255, using: &random) }
    let text = (0..<16384).map { UInt8(truncatingIfNeeded: $0 / 64) }
    func write(_ bytes: [UInt8], _ offset: Int) throws {
      device.replaceSubrange(offset..<offset + bytes.count, with: bytes)
      try disks?.0.write(bytes, at: UInt64(offset))
    }
    func copy(_ bytes: [UInt8], _ offset: Int) throws {
      snapshot.replaceSubrange(offset..<offset + bytes.count, with: bytes)
      try disks?.1.write(bytes, at: UInt64(offset))
    }
    try write(noise, 0)
    try write(text, 65536)
    try journal?.flush()
    for piece in 0..<20 { try write(Array(text[..<4096]), 131072 + piece * 8192) }
    try copy(text, 0)
    try journal?.flush()
    let zeroes = ByteRange(offset: 4096, count: 8192)
    device.replaceSubrange(4096..<12288, with: repeatElement(0, count: 8192))
    try disks?.0.writeZeroes(zeroes, mayTrim: false, durable: false).wake()
    device.replaceSubrange(131072..<196608, with: repeatElement(0, count: 65536))
    try disks?.0.trim(ByteRange(offset: 131072, count: 65536), durable: true).wake()
    try copy(noise, 65536)
    try disks?.1.complete()
    if version != "1.0" { try makeGenerations(journal, noise, text) }
    guard version.contains("checkpoints") else { return }
    for (name, offset) in [("morning", 300_000), ("noon", 299_000)] {
      try disks?.0.seal(as: name)
      checkpoints.append((name, device))
      try write(noise, offset)
      device.replaceSubrange(65536..<73728, with: repeatElement(0, count: 8192))
      try disks?.0.trim(ByteRange(offset: 65536, count: 8192), durable: false).wake()
    }
  }

  /// A full generation, an incremental one that is pre-sealed and sealed, one that was ended, and one that is open.
  private mutating func makeGenerations(_ journal: Journal?, _ noise: [UInt8], _ text: [UInt8]) throws {
    let size: UInt64 = 8 << 20
    let block = 16384
    var full = [UInt8](repeating: 0, count: Int(size))
    full.replaceSubrange(block..<2 * block, with: text)
    full.replaceSubrange(2 * block..<3 * block, with: noise)
    var incremental = full
    incremental.replaceSubrange(2 * block..<3 * block, with: text)
    generations = [("full", full), ("incremental", incremental)]
    guard let journal else { return }
    let first = try journal.disk("chain", byteCount: size, mode: .snapshot)
    try first.write(text, at: UInt64(block))
    try first.write(noise, at: UInt64(2 * block))
    try first.writeZeroes(ByteRange(start: 0, end: UInt64(block)), mayTrim: true, durable: false).wake()
    try first.writeZeroes(ByteRange(start: UInt64(3 * block), end: size), mayTrim: false, durable: false)
      .wake()
    try first.seal(as: "full")
    let second = try journal.begin(
      "chain", GenerationRequest(name: "incremental", kind: .incremental, base: "full", tag: "tag"))
    let changed = ByteRange(start: UInt64(2 * block), end: UInt64(3 * block))
    try second.fallToBase([ByteRange(start: 0, end: changed.start), ByteRange(start: changed.end, end: size)])
    try second.finishBitmap()
    try second.write(text, at: changed.start)
    try second.preSeal(job: "job")
    try second.seal()
    let third = try journal.begin("chain", GenerationRequest(name: "look", kind: .cow))
    try third.end("over")
    _ = try journal.begin("chain", GenerationRequest(name: "next"))
  }
}

@Suite struct GoldenTests {
  @Test(
    "writes a golden journal",
    .enabled(
      if: ProcessInfo.processInfo.environment["SPILLWAY_WRITE_GOLDEN"] != nil, "SPILLWAY_WRITE_GOLDEN=VERSION"
    ))
  func write() throws {
    let version = try #require(ProcessInfo.processInfo.environment["SPILLWAY_WRITE_GOLDEN"])
    let target = golden.appendingPathComponent(version)
    let fixture = try JournalFixture()
    fixture.crash()
    fixture.host.segmentBytesMax = 48 << 10
    try fixture.open()
    _ = try GoldenContent(fixture.journal, version: version)
    try fixture.close()
    try FileManager.default.createDirectory(at: target, withIntermediateDirectories: true)
    for name in ["journal", "segments"] {
      try FileManager.default.copyItem(
        at: URL(fileURLWithPath: fixture.path).appendingPathComponent(name),
        to: target.appendingPathComponent(name))
    }
  }

  private static let versions =
    (try? FileManager.default.contentsOfDirectory(atPath: golden.path).sorted()) ?? []

  @Test(
    "a journal of every version opens, with and without its directories", arguments: versions, [true, false])
  func opens(version: String, hasDirectories: Bool) throws {
    let fixture = try JournalFixture()
    try fixture.close()
    try FileManager.default.removeItem(atPath: fixture.path)
    try FileManager.default.copyItem(
      at: golden.appendingPathComponent(version), to: URL(fileURLWithPath: fixture.path))
    if !hasDirectories {
      for path in fixture.segmentPaths {
        let bytes = try Data(contentsOf: URL(fileURLWithPath: path))
        try bytes.prefix(bytes.count - SegmentFooter.byteCount).write(to: URL(fileURLWithPath: path))
      }
    }
    try fixture.open()
    let expected = try GoldenContent(nil, version: version)
    let disks = fixture.journal.disks.filter { $0.name != "chain" }
    try #require(disks.map(\.name) == ["device", "snapshot"])
    #expect(try disks[0].bytes(ByteRange(offset: 0, count: disks[0].byteCount)) == expected.device)
    #expect(disks[1].isComplete)
    #expect(try disks[1].view(ByteRange(offset: 0, count: 16384)) == Array(expected.snapshot[..<16384]))
    #expect(
      try disks[1].view(ByteRange(offset: 65536, count: 16384)) == Array(expected.snapshot[65536..<81920]))
    #expect(throws: JournalError.self) { try disks[1].view(ByteRange(offset: 16384, count: 512)) }
    for (name, bytes) in expected.generations {
      let generation = try fixture.journal.generation(of: "chain", named: name)
      #expect(generation.isSealed && generation.sealRecord != nil)
      #expect(try generation.view(ByteRange(offset: 0, count: generation.byteCount)) == bytes, "\(name)")
    }
    for (name, bytes) in expected.checkpoints {
      let checkpoint = try fixture.journal.generation(of: "device", named: name)
      #expect(checkpoint.isSealed && checkpoint.generationKind == .checkpoint)
      let isRight = try checkpoint.view(ByteRange(offset: 0, count: checkpoint.byteCount)) == bytes
      #expect(isRight, "\(name)")
    }
    if !expected.generations.isEmpty {
      let look = try fixture.journal.generation(of: "chain", named: "look")
      #expect(look.endReason == "over" && look.generationKind == .cow)
      #expect(try fixture.journal.generation(of: "chain", named: "incremental").tag == "tag")
      #expect(try !fixture.journal.generation(of: "chain", named: "live").isClosed)
    }
    #expect(try fixture.journal.status().damage == nil)
  }

  @Test("every item of a golden segment is what this version writes, to the byte")
  func items() throws {
    let version = try #require(Self.versions.last)
    let folder = golden.appendingPathComponent("\(version)/segments")
    var counts: [UInt8: Int] = [:]
    for name in try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted() {
      let bytes = Array(try Data(contentsOf: folder.appendingPathComponent(name)))
      let size = bytes.count
      let superblock = try SegmentSuperblock(bytes.span.bytes.extracting(0..<4096))
      let again = AlignedBuffer(byteCount: size)
      var target = again.mutableBytes
      target.zero()
      var head = target._mutatingExtracting(0..<4096)
      superblock.encode(into: &head)
      let last = SegmentFooter(bytes.span.bytes.extracting(size - 4096..<size), at: UInt64(size - 4096))
      let footer = try #require(last)
      var directory = SegmentDirectory()
      var at = 4096
      while at < Int(footer.directoryOffset) {
        let rest = bytes.span.bytes.extracting(at..<size)
        let seed = superblock.salt &+ UInt64(at)
        var room = target._mutatingExtracting(at..<size)
        if let header = FrameHeader(rest, seed: seed) {
          _ = header.encode(into: &room, seed: seed)
          for place in header.byteCount..<header.itemByteCount {
            room.storeBytes(of: bytes[at + place], toByteOffset: place, as: UInt8.self)
          }
          directory.add(rest.extracting(0..<header.byteCount), at: UInt64(at))
          counts[0, default: 0] += 1
          at += header.itemByteCount.roundedUp(to: 16)
        } else if let (record, _) = RecordItem.decode(rest, seed: seed) {
          _ = RecordItem.encode(record, into: &room, seed: seed)
          directory.add(rest.extracting(0..<RecordItem.byteCount(record)), at: UInt64(at))
          counts[record.kind.rawValue, default: 0] += 1
          at += RecordItem.byteCount(record).roundedUp(to: 16)
        } else {
          let found = CommitRecord(rest, seed: seed)
          let commit = try #require(found, "offset \(at) of \(name)")
          commit.encode(into: &room, seed: seed)
          directory.add(rest.extracting(0..<CommitRecord.byteCount), at: UInt64(at))
          at = (at + CommitRecord.byteCount).roundedUp(to: 4096)
        }
      }
      let closing = directory.closing(footer, at: footer.directoryOffset)
      target.copy(closing.bytes, at: Int(footer.directoryOffset))
      #expect(Array(again.raw) == bytes, "\(name)")
    }
    for kind: UInt8 in [0, 2, 3, 4, 16, 17, 18, 20, 21, 22, 23] {
      #expect(counts[kind, default: 0] > 0, "no item of kind \(kind) in the golden journal")
    }
  }

  /// The superblock of a journal or of a segment with other feature bits, or another version.
  private func change(_ path: String, at: Int, to byte: UInt8) throws {
    var bytes = Array(try Data(contentsOf: URL(fileURLWithPath: path)))
    bytes[at] = byte
    let checksum = Checksum.xxh3(bytes.span.bytes.extracting(0..<4088), seed: 0)
    for index in 0..<8 { bytes[4088 + index] = UInt8(truncatingIfNeeded: checksum >> UInt64(56 - index * 8)) }
    try Data(bytes).write(to: URL(fileURLWithPath: path))
  }

  @Test(
    "an unknown version or feature is refused, only read, or ignored, as its kind says",
    arguments: [
      (9, false, false), (15, false, false), (19, false, true), (23, true, true),
    ])
  func features(at: Int, serves: Bool, reads: Bool) throws {
    let fixture = try JournalFixture()
    try fixture.makeDisk("d", byteCount: 1 << 20, mode: .device)
    try fixture.close()
    try change(fixture.path + "/journal", at: at, to: 4)
    var readError: String?
    do { _ = try JournalReader.open(fixture.path).status() } catch { readError = error.message }
    #expect((readError == nil) == reads, "\(readError ?? "")")
    #expect(readError.map { $0.contains("newer version") } ?? true)
    do {
      try fixture.open()
      #expect(serves)
    } catch {
      #expect(!serves && error is JournalError)
      #expect((error as? JournalError)?.message.contains("newer version") == true, "\(error)")
    }
  }

  @Test("a segment of an unknown version is refused and not taken for damage", arguments: [9, 15])
  func segmentFeatures(at: Int) throws {
    let fixture = try JournalFixture()
    try fixture.makeDisk("d", byteCount: 1 << 20, mode: .device)
    fixture.crash()
    try change(#require(fixture.segmentPaths.first), at: at, to: 4)
    do {
      try fixture.open()
      Issue.record("it was opened")
    } catch {
      #expect((error as? JournalError)?.message.contains("newer version") == true, "\(error)")
    }
  }
}
