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
    if version >= "1.2" { try makeLater(journal, text) }
    guard version.contains("checkpoints") else { return }
    for (name, offset) in [("morning", 300_000), ("noon", 299_000)] {
      try disks?.0.seal(as: name)
      checkpoints.append((name, device))
      try write(noise, offset)
      device.replaceSubrange(65536..<73728, with: repeatElement(0, count: 8192))
      try disks?.0.trim(ByteRange(offset: 65536, count: 8192), durable: false).wake()
    }
  }

  /// What `moved` shows; version 1.1 moved nothing.
  var moved: [UInt8] = []
  /// The generations of `links` that are left, and what each shows.
  var links: [(name: String, bytes: [UInt8])] = []

  /// Frames and records that upkeep has something to do with, generations that take others in, a release, a taint, a job.
  private mutating func makeLater(_ journal: Journal?, _ text: [UInt8]) throws {
    let block = 64 << 10
    moved = [UInt8](repeating: 0, count: 1 << 20)
    let disk = try journal?.disk("moved", byteCount: 1 << 20, mode: .device)
    var random = SeededGenerator(seed: 2)
    func write(_ offset: Int, _ count: Int) throws {
      let bytes = (0..<count).map { _ in UInt8.random(in: 0...255, using: &random) }
      moved.replaceSubrange(offset..<offset + count, with: bytes)
      try disk?.write(bytes, at: UInt64(offset))
    }
    // Pairs that come to a segment each: of the first all is overwritten, of the second half, of the others most. A trim goes
    // with the first.
    try disk?.trim(ByteRange(offset: 3 << 18, count: 1 << 18), durable: false).wake()
    for pair in 0..<4 {
      try write(2 * pair * block, block)
      try write((2 * pair + 1) * block, block)
      try journal?.flush()
    }
    for index in 0..<3 {
      try write(index * block, block)
      try journal?.flush()
    }
    for index in 4..<8 {
      try write(index * block, block * 3 / 4)
      try journal?.flush()
    }
    // What is compressed harder one day.
    for index in 0..<8 {
      let offset = 8 * block + index * text.count
      moved.replaceSubrange(offset..<offset + text.count, with: text)
      try disk?.write(text, at: UInt64(offset))
      try journal?.flush()
    }
    try makeLinks(journal, text)
    guard let journal else { return }
    let released = try journal.disk("released", byteCount: 64 << 10, mode: .snapshot)
    try released.write(text, at: 0)
    try released.release(ByteRange(offset: 4096, count: 4096)).wake()
    let broken = try journal.disk("broken", byteCount: 64 << 10, mode: .snapshot)
    try broken.write(text, at: 0)
    try broken.write(Array(text.reversed()), at: 0)
    let fed = try journal.disk("fed", byteCount: 64 << 10, mode: .snapshot)
    try fed.recordSeenJob("backup-1")
    try fed.recordLowered(JobSpeed(job: "backup-1", bytesPerSecond: 1 << 30, loweredTo: 1 << 20))
  }

  /// Ten generations on one another, of which one goes: the last was flattened before.
  private mutating func makeLinks(_ journal: Journal?, _ text: [UInt8]) throws {
    let size = 64 << 10
    var bytes = [UInt8](repeating: 0, count: size)
    for index in 0..<10 {
      let place = index * 4096
      let content = (0..<4096).map { UInt8(truncatingIfNeeded: $0 / 9 + index) }
      bytes.replaceSubrange(place..<place + 4096, with: content)
      links.append(("link\(index)", bytes))
      guard let journal else { continue }
      let first = try index == 0 ? journal.disk("links", byteCount: UInt64(size), mode: .snapshot) : nil
      let request = GenerationRequest(name: "link\(index)", kind: .incremental, base: "link\(index - 1)")
      let disk = try first ?? journal.begin("links", request)
      let own = ByteRange(offset: UInt64(place), count: 4096)
      let (before, after) = (
        ByteRange(start: 0, end: own.start), ByteRange(start: own.end, end: UInt64(size))
      )
      if index == 0 {
        try disk.writeZeroes(after, mayTrim: true, durable: false).wake()
      } else {
        try disk.fallToBase([before, after])
        try disk.finishBitmap()
      }
      try disk.write(content, at: own.start)
      try disk.seal(as: "link\(index)")
    }
    links.remove(at: 3)
    try journal?.drop("link3", of: "links")
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
    fixture.host.segmentBytesMax = version >= "1.2" ? 160 << 10 : 48 << 10
    fixture.host.upkeepEveryNanoseconds = nil
    fixture.host.upkeepLimits.coldNanoseconds = 0
    fixture.host.upkeepLimits.punchedBytesMin = 32 << 10
    try fixture.open()
    _ = try GoldenContent(fixture.journal, version: version)
    try fixture.close()
    if version >= "1.2" {
      // What lies in the open segment is left alone.
      try fixture.open()
      let done = try fixture.journal.upkeep(recompresses: true)
      #expect(done.unlinkedSegments > 0 && done.punchedRuns > 0 && done.recompressedFrames > 0, "\(done)")
      #expect(done.reencodedFrames > 0 && done.movedRecords > 0, "\(done)")
      try fixture.close()
    }
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
        // Where there are holes only the directory knows what was there.
        if Self.holes(in: Array(bytes)) > 0 { continue }
        try bytes.prefix(bytes.count - SegmentFooter.byteCount).write(to: URL(fileURLWithPath: path))
      }
    }
    try fixture.open()
    let expected = try GoldenContent(nil, version: version)
    let disks = fixture.journal.disks.filter { ["device", "snapshot"].contains($0.name) }
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
    if !expected.moved.isEmpty { try expectLater(expected, fixture.journal) }
    #expect(try fixture.journal.status().damage == nil)
  }

  /// Expects what version 1.2 has besides.
  private func expectLater(_ expected: GoldenContent, _ journal: Journal) throws {
    let all = ByteRange(offset: 0, count: 1 << 20)
    let moved = try #require(journal.disks.first { $0.name == "moved" })
    let isRight = try moved.bytes(all) == expected.moved
    #expect(isRight)
    for (name, bytes) in expected.links {
      let link = try journal.generation(of: "links", named: name)
      let isRight = try link.view(ByteRange(offset: 0, count: link.byteCount)) == bytes
      #expect(isRight && link.isSealed, "\(name)")
    }
    #expect(failure { _ = try journal.generation(of: "links", named: "link3") } == .usage)
    let released = try #require(journal.disks.first { $0.name == "released" })
    #expect(failure { _ = try released.view(ByteRange(offset: 4096, count: 512)) } == .notPermitted)
    #expect(try released.view(ByteRange(offset: 0, count: 512))?.count == 512)
    #expect(journal.disks.first { $0.name == "broken" }?.taintReason != nil)
    let fed = try #require(journal.disks.first { $0.name == "fed" })
    #expect(fed.seenJob == "backup-1")
    #expect(fed.loweredJob == JobSpeed(job: "backup-1", bytesPerSecond: 1 << 30, loweredTo: 1 << 20))
    #expect(try journal.livenessFlaw() == nil)
  }

  /// How many blocks of a segment's groups were given back.
  private static func holes(in bytes: [UInt8]) -> Int {
    let footer = SegmentFooter(
      bytes.span.bytes.extracting(bytes.count - 4096..<bytes.count), at: UInt64(bytes.count - 4096))
    guard let footer else { return 0 }
    return stride(from: 4096, to: Int(footer.directoryOffset), by: 4096).count {
      bytes.span.bytes.extracting($0..<$0 + 4096).isAllZero
    }
  }

  @Test("every item of a golden segment is what this version writes, to the byte")
  func items() throws {
    let version = try #require(Self.versions.last)
    let folder = golden.appendingPathComponent("\(version)/segments")
    var counts: [UInt8: Int] = [:]
    var holes = 0
    var kinds: Set<SegmentKind> = []
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
      let start = Int(footer.directoryOffset)
      let entries = bytes.span.bytes.extracting(start..<start + Int(footer.directoryByteCount))
      var flaw: UInt64?
      SegmentDirectory.forEach(entries) { header, offset in
        let (seed, at) = (superblock.salt &+ offset, Int(offset))
        var room = target._mutatingExtracting(at..<size)
        directory.add(header, at: offset)
        if let frame = FrameHeader(header, seed: seed) {
          _ = frame.encode(into: &room, seed: seed)
          for place in frame.byteCount..<frame.itemByteCount {
            room.storeBytes(of: bytes[at + place], toByteOffset: place, as: UInt8.self)
          }
          counts[0, default: 0] += 1
        } else if let (record, _) = RecordItem.decode(header, seed: seed) {
          _ = RecordItem.encode(record, into: &room, seed: seed)
          counts[record.kind.rawValue, default: 0] += 1
        } else if let commit = CommitRecord(header, seed: seed) {
          commit.encode(into: &room, seed: seed)
        } else {
          flaw = offset
        }
        return flaw == nil
      }
      #expect(flaw == nil, "\(name)")
      for block in stride(from: 4096, to: start, by: 4096)
      where bytes.span.bytes.extracting(block..<block + 4096).isAllZero {
        var hole = target._mutatingExtracting(block..<block + 4096)
        hole.zero()
      }
      holes += Self.holes(in: bytes)
      kinds.insert(superblock.kind)
      let closing = directory.closing(footer, at: footer.directoryOffset)
      target.copy(closing.bytes, at: Int(footer.directoryOffset))
      let isSame = Array(again.raw) == bytes
      #expect(isSame, "\(name)")
    }
    #expect(holes > 0 && kinds == [.fresh, .moved])
    for kind: UInt8 in [0, 2, 3, 4, 5, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 28, 29, 30] {
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
