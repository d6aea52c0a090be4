import Bytes
import ExtentJournal
import Foundation
import LMDB
import TestKit
import Testing

// Goal: no byte is believed that was not verified, and no frame that the index sends a reader to by mistake.
// Method: single bytes of a frame are flipped under an open journal, and rows of the index are falsified behind its back:
// the read must fail and name what is damaged, and every other range must still be served.

private let pieceByteCount: UInt64 = 64 << 10
private let layer = LayerKey(disk: DiskID(number: 1), generation: GenerationID(number: 1))

/// Two disks of eight pieces each, every piece in a frame of its own and filled with its number.
private func filled() throws -> JournalFixture {
  let fixture = try JournalFixture()
  for disk in ["a", "b"] {
    try fixture.makeDisk(disk, byteCount: 16 << 20, mode: .device)
    for piece in 0..<8 as Range<UInt64> {
      try fixture.journal.disk(disk, byteCount: nil, mode: nil).write(
        content(disk, piece), at: place(piece).start)
    }
  }
  try fixture.journal.checkpoint()
  return fixture
}

/// Every second 64 KiB, so that pieces do not share frames.
private func place(_ piece: UInt64) -> ByteRange {
  ByteRange(offset: piece * 2 * pieceByteCount, count: pieceByteCount)
}

private func content(_ disk: String, _ piece: UInt64) -> [UInt8] {
  contents[Int(piece) + (disk == "a" ? 0 : 8)]
}

/// Each byte says which piece it is of, the last ones also where they are.
private let contents = (1...16 as ClosedRange<UInt8>).map { number in
  [UInt8](repeating: number, count: Int(pieceByteCount) - 4096)
    + (0..<4096).map { number ^ UInt8(truncatingIfNeeded: $0 / 7) }
}

/// Reads every piece of both disks: those that `damaged` names fail, all others are right.
private func check(_ fixture: JournalFixture, damaged: [String: Set<UInt64>], _ what: String) throws {
  for disk in fixture.journal.disks {
    for piece in 0..<8 as Range<UInt64> {
      let outcome = Result { try disk.bytes(place(piece)) }
      if damaged[disk.name, default: []].contains(piece) {
        let error = #expect(throws: JournalError.self, "\(what): \(disk.name) \(piece)") { try outcome.get() }
        #expect(error?.kind == .damaged)
        let range =
          "bytes \(place(piece).start) to \(place(piece).end) of \(disk.name) are damaged: frame at offset "
        #expect(error?.message.hasPrefix(range) ?? false, "\(what): \(error?.message ?? "")")
        #expect(error?.message.contains("segments/0000000000000001.seg") ?? false)
      } else {
        #expect(try outcome.get() == content(disk.name, piece), "\(what): \(disk.name) \(piece)")
      }
    }
  }
}

@Suite struct EchoTests {
  @Test("a byte that flips anywhere in a frame fails the reads that need it, by name, and no others")
  func flippedBytes() throws {
    let fixture = try filled()
    let place = try #require(try frames(fixture)["a"]?[3])
    let segment = URL(fileURLWithPath: fixture.segmentPaths[0])
    // Header, extent, the first and the last stored byte.
    let header = try Data(contentsOf: segment).dropFirst(Int(place.offset))
    let stored = header.dropFirst(20).prefix(4).reduce(0) { $0 << 8 | UInt64($1) }
    for at in [0, 4, 9, 13, 26, 34, 41, 47, 50, 56, 56 + stored - 1] {
      try flip(segment, place.offset + at)
      // A reopened journal has nothing in its cache.
      try fixture.close()
      try fixture.open()
      try check(fixture, damaged: ["a": [3]], "byte \(at)")
      try flip(segment, place.offset + at)
      try check(fixture, damaged: [:], "byte \(at) restored")
    }
  }

  @Test("a frame in the cache was verified when it came there, and is verified again when it comes again")
  func flippedUnderTheCache() throws {
    let fixture = try filled()
    let place = try #require(try frames(fixture)["a"]?[3])
    try check(fixture, damaged: [:], "whole")
    try flip(URL(fileURLWithPath: fixture.segmentPaths[0]), place.offset + 60)
    try check(fixture, damaged: [:], "cached")
    try fixture.close()
    try fixture.open()
    try check(fixture, damaged: ["a": [3]], "read again")
  }

  private func key(_ generation: UInt32) -> LayerKey {
    LayerKey(disk: DiskID(number: 1), generation: GenerationID(number: generation))
  }

  @Test("the echo agrees with the frame's own disk and sectors only, and with no older generation")
  func echo() {
    let (older, layer, newer) = (key(1), key(2), key(3))
    let header = FrameHeader(
      codec: .raw, level: 0, layer: layer, storedByteCount: 40 * 512, payloadChecksum: 0,
      extents: [(100, 16), (116, 8), (300, 16)].map {
        FrameExtent(range: SectorRange(start: $0.0, count: $0.1), sequence: 1)
      })
    // What the frame has: sector of the frame → sector of the disk.
    let sectors = (100..<124).map { UInt64($0) } + (300..<316).map { UInt64($0) }
    for skip in 0..<UInt32(44) {
      for start in [99, 100, 116, 123, 124, 300] as [UInt64] {
        for count in [1, 8, 9, 16, 24, 25] as [UInt64] {
          let wanted = (start..<start + count).map { $0 }
          let isThere =
            Int(skip) + wanted.count <= sectors.count
            && Array(sectors[Int(skip)...].prefix(wanted.count)) == wanted
          let range = SectorRange(start: start, count: count)
          #expect(header.holds(range, of: layer, from: skip) == isThere, "\(start) + \(count) from \(skip)")
          // A newer one may have taken it in when this one was dropped.
          #expect(header.holds(range, of: newer, from: skip) == isThere)
          for other in [LayerKey(disk: DiskID(number: 2), generation: layer.generation), older] {
            #expect(!header.holds(range, of: other, from: skip))
          }
        }
      }
    }
  }

  @Test(
    "rows of the index that lead to the wrong place are found out, with a cold and a warm cache",
    arguments: [false, true])
  func falseRows(warm: Bool) throws {
    let fixture = try filled()
    // The false entries are looked up in a journal that has, or has not, read the true frames before.
    try check(fixture, damaged: [:], "before")
    try fixture.close()
    try falsify(fixture)
    try fixture.open()
    // Found out means: the index is built again, and what then comes is right.
    if warm { try check(fixture, damaged: [:], "first") }
    try check(fixture, damaged: [:], "rows")
    #expect(
      fixture.messages.all.contains { $0.contains("the row for bytes") && $0.contains("of a points to") })
    #expect(fixture.messages.all.contains { $0.contains("the index is built again") })
  }

  /// The first four pieces of disk a lead to: a piece of disk b, another piece of a, one with a wrong skip, no frame at all.
  private func falsify(_ fixture: JournalFixture) throws {
    let environment = try LMDBEnvironment(path: fixture.path + "/index", databases: 8, readOnly: false)
    let map = try environment.open("map", create: false)
    let key = RegionRow.key(layer, region: 0, part: 0)
    let otherKey = RegionRow.key(
      LayerKey(disk: DiskID(number: 2), generation: layer.generation), region: 0, part: 0)
    try environment.write { (transaction) throws(LMDBError) in
      let values = (try transaction.get(map, key) ?? [], try transaction.get(map, otherKey) ?? [])
      let row = RegionRow.decode(values.0.span.bytes) ?? []
      let other = RegionRow.decode(values.1.span.bytes) ?? []
      var entries = row
      entries[0].placement = other[0].placement
      entries[1].placement = row[2].placement
      entries[2].placement = row[2].placement.advanced(by: 1)
      guard case .frame(var address, let skip) = row[3].placement else { return }
      address.granule += 1
      entries[3].placement = .frame(address, skip: skip)
      try transaction.put(map, key, RegionRow.encode(entries)[0].value)
    }
  }

  private func flip(_ file: URL, _ offset: UInt64) throws {
    let handle = try FileHandle(forUpdating: file)
    try handle.seek(toOffset: offset)
    let byte = try #require(try handle.read(upToCount: 1)?.first)
    try handle.seek(toOffset: offset)
    try handle.write(contentsOf: Data([byte ^ 0x10]))
    try handle.close()
  }

  /// Where the frame of each piece lies in its segment, by disk.
  private func frames(_ fixture: JournalFixture) throws -> [String: [(segment: UInt64, offset: UInt64)]] {
    let copy = fixture.directory.file("copy")
    try FileManager.default.copyItem(atPath: fixture.path, toPath: copy)
    let reader = try JournalReader.open(copy)
    var found: [String: [(UInt64, UInt64)]] = [:]
    for disk in ["a", "b"] {
      try reader.forEachExtent(of: disk) { _, placement in
        guard case .frame(let address, _) = placement else { return }
        found[disk, default: []].append(
          (address.segment, UInt64(address.granule) * FrameAddress.granuleByteCount))
      }
    }
    return found
  }
}
