import Bytes
import ExtentJournal
import Foundation
import TestKit
import Testing

// Goal: bytes of a segment that go bad cost what they held and nothing else, and whoever reads that is told so: never
// wrong bytes, never older ones.
// Method: real files. A journal of known content is closed or left as after a kill, some of its bytes are changed, and it
// is opened again.

private let blockByteCount = 64 << 10

/// Block `number` in version `version`: nothing that a compressor can shorten, and unlike every other.
private func block(_ number: Int, version: UInt64 = 1) -> [UInt8] {
  var random = SeededGenerator(seed: UInt64(number) &* 1000 &+ version)
  let words = (0..<blockByteCount / 8).map { _ in random.next() }
  return words.withUnsafeBytes { Array($0) }
}

/// A file of a journal, to be spoilt.
private struct File {
  let path: String
  var bytes: Data

  init(_ path: String) throws {
    self.path = path
    bytes = try Data(contentsOf: URL(fileURLWithPath: path))
  }

  /// Where the magic numbers of items stand, in order.
  func places(of magic: String) -> [Int] {
    var found: [Int] = []
    var from = bytes.startIndex
    while let next = bytes.range(of: Data(magic.utf8), in: from..<bytes.endIndex) {
      if next.lowerBound % 16 == 0 { found.append(next.lowerBound) }
      from = next.upperBound
    }
    return found
  }

  mutating func spoil(_ at: Int, count: Int = 4) throws {
    for place in at..<at + count { bytes[place] ^= 0x5A }
    try bytes.write(to: URL(fileURLWithPath: path))
  }

  mutating func truncate(_ count: Int) throws {
    bytes = bytes.prefix(count)
    try bytes.write(to: URL(fileURLWithPath: path))
  }
}

@Suite struct DamageTests {
  /// A disk of which `count` blocks were written and flushed, each in a batch of its own; the index knows none of it.
  private func flushed(_ count: Int, segmentBytesMax: UInt64 = 64 << 20) throws -> JournalFixture {
    let fixture = try JournalFixture()
    fixture.crash()
    fixture.host.segmentBytesMax = segmentBytesMax
    try fixture.open()
    try fixture.makeDisk("d", byteCount: 16 << 20, mode: .device)
    for number in 0..<count {
      try fixture.disk.write(block(number), at: UInt64(number * blockByteCount))
      try fixture.journal.flush()
    }
    return fixture
  }

  private func read(_ fixture: JournalFixture, _ number: Int) throws -> [UInt8] {
    try fixture.disk.bytes(
      ByteRange(offset: UInt64(number * blockByteCount), count: UInt64(blockByteCount)))
  }

  private func isLost(_ fixture: JournalFixture, _ number: Int) -> Bool {
    do {
      _ = try read(fixture, number)
      return false
    } catch { return true }
  }

  /// The frame that holds block `number`: the blocks were written in order, one frame each.
  private func framePlace(_ file: File, _ number: Int) throws -> Int {
    let places = file.places(of: "SPWF")
    try #require(places.count > number)
    return places[number]
  }

  @Test("of a stored frame costs that frame, is reported by disk, range and record, and the rest is served")
  func payload() throws {
    let fixture = try flushed(4)
    fixture.crash()
    var file = try File(#require(fixture.segmentPaths.first))
    try file.spoil(framePlace(file, 1) + 200)
    try fixture.open()
    for number in [0, 2, 3] { #expect(try read(fixture, number) == block(number)) }
    #expect(isLost(fixture, 1))
    let damage = try fixture.journal.status().damage ?? []
    #expect(damage.count == 1)
    #expect(damage.first?.disk == "d" && damage.first?.offset == UInt64(blockByteCount))
    #expect(damage.first?.length == UInt64(blockByteCount))
    #expect(fixture.messages.all.contains { $0.contains("bytes 65536 to 131072 of disk d (record 4)") })
    // What is written over it is whole again, also for the next opening.
    try fixture.disk.write(block(1, version: 2), at: UInt64(blockByteCount))
    try fixture.close()
    try fixture.open()
    for number in [0, 2, 3] { #expect(try read(fixture, number) == block(number)) }
    #expect(try read(fixture, 1) == block(1, version: 2))
  }

  @Test("of a header in a sealed segment costs that frame alone: the directory knows what it was")
  func header() throws {
    let fixture = try flushed(4)
    try fixture.close()
    try fixture.removeIndex()
    var file = try File(#require(fixture.segmentPaths.first))
    try file.spoil(framePlace(file, 1) + 8)
    try fixture.open()
    for number in [0, 2, 3] { #expect(try read(fixture, number) == block(number)) }
    #expect(isLost(fixture, 1))
  }

  @Test("of the same after a kill, and unsealed, makes everything suspect: nobody knows what is missing")
  func unknownHeader() throws {
    let fixture = try flushed(4)
    fixture.crash()
    var file = try File(#require(fixture.segmentPaths.first))
    try file.spoil(framePlace(file, 1) + 8)
    try fixture.open()
    #expect(fixture.messages.all.contains { $0.contains("are damaged") && $0.contains("tainted") })
    for number in 0..<4 { #expect(isLost(fixture, number)) }
    #expect(try fixture.journal.status().disks[0].generations[0].tainted)
    #expect(try fixture.journal.status().damage?.first.map { $0.disk == nil } == true)
    // It stays so, and no new disk can take the name of one that may be lost.
    for _ in 0..<2 {
      #expect(throws: JournalError.self) {
        try fixture.journal.disk("e", byteCount: 1 << 20, mode: .device)
      }
      try fixture.close()
      try fixture.open()
      #expect(isLost(fixture, 0))
    }
  }

  @Test("of a commit record makes what it ended suspect, and the journal goes on behind it")
  func commitRecord() throws {
    let fixture = try flushed(4)
    fixture.crash()
    var file = try File(#require(fixture.segmentPaths.first))
    try file.spoil(file.places(of: "SPWC")[2] + 30)
    try fixture.open()
    #expect(try fixture.journal.status().disks[0].generations[0].tainted)
    #expect(try fixture.journal.status().damage?.count == 1)
    let last = try fixture.journal.status().lastSequence
    try fixture.disk.write(block(9), at: 1 << 20)
    try fixture.journal.flush()
    #expect(try fixture.journal.status().durableThrough > last)
  }

  @Test(
    "of a superblock costs nothing in a sealed segment, whose footer repeats it", arguments: [false, true])
  func superblock(losesIndex: Bool) throws {
    let fixture = try flushed(4)
    try fixture.close()
    if losesIndex { try fixture.removeIndex() }
    var file = try File(#require(fixture.segmentPaths.first))
    try file.spoil(20, count: 30)
    try fixture.open()
    for number in 0..<4 { #expect(try read(fixture, number) == block(number)) }
    #expect(try fixture.journal.status().damage == nil)
  }

  @Test("of the superblock of a segment that the index does not know loses it whole, and says so")
  func unsealedSuperblock() throws {
    let fixture = try flushed(2)
    fixture.crash()
    try fixture.open()  // what was is sealed now, and what comes is not
    try fixture.disk.write(block(2), at: UInt64(2 * blockByteCount))
    try fixture.journal.flush()
    fixture.crash()
    var file = try File(#require(fixture.segmentPaths.last))
    try file.spoil(20, count: 30)
    try fixture.open()
    #expect(try fixture.journal.status().disks[0].generations[0].tainted)
    #expect(fixture.messages.all.contains { $0.contains("are damaged beyond recognition") })
    #expect(fixture.segmentPaths.contains(file.path), "nothing is thrown away")
  }

  @Test("of a whole batch that nobody flushed is not taken for a torn tail while the machine runs")
  func sameBoot() throws {
    let fixture = try flushed(1)
    try fixture.disk.write(block(1), at: UInt64(blockByteCount))
    try fixture.journal.spill()
    fixture.crash()
    var file = try File(#require(fixture.segmentPaths.last))
    try file.spoil(framePlace(file, 1) + 300)
    try fixture.open()
    #expect(try fixture.journal.status().damage?.map(\.offset) == [UInt64(blockByteCount)])
    #expect(isLost(fixture, 1))
    #expect(try read(fixture, 0) == block(0))
  }

  @Test("the same after the machine was started anew is a torn tail: nobody was promised it")
  func otherBoot() throws {
    let fixture = try flushed(1)
    let boots = ["00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"]
    try fixture.close()
    fixture.host.bootID = boots[0]
    try fixture.open()
    try fixture.disk.write(block(1), at: UInt64(blockByteCount))
    try fixture.journal.spill()
    fixture.crash()
    var file = try File(#require(fixture.segmentPaths.last))
    try file.spoil(framePlace(file, 0) + 300)
    let before = fixture.segmentPaths.count
    fixture.host.bootID = boots[1]
    try fixture.open()
    #expect(try fixture.journal.status().damage == nil)
    #expect(try read(fixture, 0) == block(0))
    #expect(try read(fixture, 1) == [UInt8](repeating: 0, count: blockByteCount))
    #expect(fixture.segmentPaths.count == before - 1, "the torn batch was all of its segment")
  }

  @Test(
    "an idle second after a FLUSH its durability is on record, so that damage to it is not taken for a torn tail"
  )
  func idleMark() throws {
    let fixture = try JournalFixture()
    fixture.crash()
    fixture.host.bootID = "00000000-0000-4000-8000-000000000001"
    fixture.host.idleMarkNanoseconds = 0
    try fixture.open()
    try fixture.makeDisk("d", byteCount: 16 << 20, mode: .device)
    try fixture.disk.write(block(0), at: 0)
    let path = try #require(fixture.segmentPaths.first)
    try fixture.journal.flush()
    // A group that begins with its commit record is the empty batch.
    while try File(path).places(of: "SPWC").last.map({ $0 % 4096 != 0 }) ?? true {}
    fixture.crash()
    var file = try File(path)
    try file.spoil(framePlace(file, 0) + 300)
    fixture.host.bootID = "00000000-0000-4000-8000-000000000002"
    try fixture.open()
    #expect(try fixture.journal.status().damage?.map(\.offset) == [0])
    #expect(isLost(fixture, 0))
  }

  @Test("a directory that was torn, or is damaged, costs nothing", arguments: [true, false])
  func directory(isTorn: Bool) throws {
    let fixture = try flushed(6, segmentBytesMax: 160 << 10)
    fixture.crash()
    try #require(fixture.segmentPaths.count > 2)
    var file = try File(fixture.segmentPaths[0])
    if isTorn {
      try file.truncate(file.bytes.count - 4096)
    } else {
      try file.spoil(file.bytes.count - 8192 + 100)
    }
    try fixture.open()
    for number in 0..<6 { #expect(try read(fixture, number) == block(number)) }
    #expect(try fixture.journal.status().damage == nil)
  }

  @Test("extents of a generation that no record begins are reported")
  func orphans() throws {
    let fixture = try flushed(2)
    try fixture.close()
    try fixture.removeIndex()
    var file = try File(#require(fixture.segmentPaths.first))
    // The directory goes, and with it the copy of the records that make the disk.
    try file.truncate(file.bytes.count - 8192)
    for place in file.places(of: "SPWR") { try file.spoil(place + 6) }
    try fixture.open()
    #expect(fixture.messages.all.contains { $0.contains("disk number 1") && $0.contains("no record begins") })
  }

  @Test("of the very last group is no torn tail either while the ring knows that it was written")
  func lastGroup() throws {
    let fixture = try flushed(2)
    fixture.crash()
    var file = try File(#require(fixture.segmentPaths.last))
    try file.spoil(#require(file.places(of: "SPWC").last) + 20)
    try fixture.open()
    #expect(try fixture.journal.status().damage?.count == 1)
    #expect(isLost(fixture, 1), "older bytes must not pass for it")
  }

  @Test(
    "a segment that is gone costs what it held, by disk and range; the last one leaves everything in doubt")
  func missingSegments() throws {
    let fixture = try flushed(6, segmentBytesMax: 160 << 10)
    try fixture.close()
    let paths = fixture.segmentPaths
    try #require(paths.count > 2)
    try FileManager.default.removeItem(atPath: paths[1])
    try fixture.open()
    let lost = (0..<6).filter { isLost(fixture, $0) }
    #expect(!lost.isEmpty && lost.count < 6)
    for number in 0..<6 where !lost.contains(number) { #expect(try read(fixture, number) == block(number)) }
    #expect(
      fixture.messages.all.contains {
        $0.contains("bytes \(lost[0] * blockByteCount) to") && $0.contains("is missing")
      })
    // The index ends in this one, and nothing says what else may have been in it.
    try fixture.close()
    try FileManager.default.removeItem(atPath: #require(fixture.segmentPaths.last))
    try fixture.open()
    #expect(try fixture.journal.status().disks[0].generations[0].tainted)
  }

  @Test("that the ring knows of leaves no sequence to be given out twice")
  func sequencesBehindLoss() throws {
    let fixture = try flushed(3)
    let last = try fixture.journal.status().lastSequence
    fixture.crash()
    var file = try File(#require(fixture.segmentPaths.last))
    // All three are gone; the records that say so must not take their numbers.
    try file.truncate(framePlace(file, 0))
    try fixture.open()
    #expect(try fixture.journal.status().disks[0].generations[0].tainted)
    #expect(try fixture.journal.status().lastSequence > last)
  }

  @Test("sequences that a crash cut off are not given out again")
  func sequences() throws {
    let fixture = try flushed(1)
    fixture.host.bootID = "00000000-0000-4000-8000-000000000001"
    try fixture.close()
    try fixture.open()
    for number in 1..<4 {
      try fixture.disk.write(block(number), at: UInt64(number * blockByteCount))
      try fixture.journal.spill()
    }
    let last = try fixture.journal.status().lastSequence
    fixture.crash()
    var file = try File(#require(fixture.segmentPaths.last))
    try file.spoil(framePlace(file, 0) + 300)
    fixture.host.bootID = "00000000-0000-4000-8000-000000000002"
    try fixture.open()
    #expect(try fixture.journal.status().lastSequence < last)
    try fixture.disk.write(block(5), at: 0)
    #expect(try fixture.journal.status().lastSequence == last + 1)
    try fixture.journal.flush()
    fixture.crash()
    try fixture.open()
    #expect(try read(fixture, 0) == block(5))
  }

  @Test("anywhere, of any length, never reads as anything but what was written", arguments: seeds(60))
  func anywhere(seed: UInt64) throws {
    var random = SeededGenerator(seed: seed)
    let fixture = try JournalFixture()
    fixture.crash()
    fixture.host.segmentBytesMax = [24 << 10, 200 << 10, 64 << 20][Int(seed % 3)]
    try fixture.open()
    try fixture.makeDisk("d", byteCount: 16 << 20, mode: .device)
    var model: [Int: UInt64] = [:]
    for version in 1...UInt64(Int.random(in: 3...20, using: &random)) {
      let number = Int.random(in: 0..<8, using: &random)
      try fixture.disk.write(block(number, version: version), at: UInt64(number * blockByteCount))
      model[number] = version
      switch Int.random(in: 0..<4, using: &random) {
      case 0: try fixture.journal.flush()
      case 1: try fixture.journal.spill()
      case 2: try fixture.journal.checkpoint()
      default: break
      }
    }
    try fixture.journal.flush()
    if Bool.random(using: &random) { fixture.crash() } else { try fixture.close() }
    if Bool.random(using: &random) { try fixture.removeIndex() }
    var file = try File(#require(fixture.segmentPaths.randomElement(using: &random)))
    let count = Int.random(in: 1...600, using: &random)
    try file.spoil(Int.random(in: 0..<file.bytes.count - count, using: &random), count: count)
    do {
      try fixture.open()
    } catch {
      Issue.record("seed \(seed): the journal does not open: \(error)")
      return
    }
    // The disk's own records may be what was lost.
    guard !fixture.journal.disks.isEmpty else {
      #expect(try fixture.journal.status().damage?.isEmpty == false, "seed \(seed)")
      return
    }
    for (number, version) in model {
      guard !isLost(fixture, number) else { continue }
      #expect(try read(fixture, number) == block(number, version: version), "seed \(seed), block \(number)")
    }
    // Whatever it was, the journal takes what is written from now on.
    try fixture.disk.write(block(9), at: 9 << 16)
    try fixture.close()
    try fixture.open()
    if !isLost(fixture, 9) { #expect(try read(fixture, 9) == block(9), "seed \(seed)") }
  }
}
