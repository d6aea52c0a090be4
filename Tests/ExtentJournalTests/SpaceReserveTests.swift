import BlockFile
import Bytes
import ExtentJournal
import Foundation
import TestKit
import Testing

// Goal: on a filesystem that others have filled to the last byte, upkeep alone gives back what is dead; and the blocks that
// it needs for that are kept before, count as the journal's, and are taken again when there is room.
// Method: a bounded store that shrinks to what is in it; a real filesystem for the file itself; a journal too small for it.

@Suite("the space that is kept for upkeep")
struct SpaceReserveTests {
  private let directory: TemporaryDirectory
  private let store: BoundedStore
  private let messages = JournalFixture.Messages()
  private static let block: UInt64 = 64 << 10
  private static let blockCount: UInt64 = 128

  init() throws {
    directory = try TemporaryDirectory()
    let segments = directory.file("segments")
    try FileManager.default.createDirectory(atPath: segments, withIntermediateDirectories: true)
    store = BoundedStore(POSIXDirectory(path: segments), byteCount: 64 << 20)
  }

  private func open(reserveFrom bytes: UInt64, quota: Quota? = nil) throws -> Journal {
    var options = JournalOptions()
    options.spoolDirectory = directory.path
    options.spoolByteCount = 16 << 20
    options.quota = quota
    var host = JournalHost()
    host.segments = store
    host.upkeepEveryNanoseconds = nil
    host.segmentBytesMax = 1 << 20
    host.reserveFileBytesMin = bytes
    let messages = messages
    return try Journal.open(directory.file("j"), options: options, host: host) {
      messages.add("\($0): \($1)")
    }
  }

  private var reserveBytes: UInt64 {
    var status = stat()
    return stat(directory.file("segments/reserve"), &status) == 0 ? UInt64(status.st_blocks) * 512 : 0
  }

  private func content(_ index: UInt64, _ version: UInt64) -> [UInt8] {
    var random = SeededGenerator(seed: index << 8 | version)
    return (0..<Self.block / 8).flatMap { _ in withUnsafeBytes(of: random.next()) { Array($0) } }
  }

  /// 8 MiB, of which three blocks of four are then written anew.
  private func fill(_ journal: Journal) throws -> Disk {
    let disk = try journal.disk("d", byteCount: Self.block * Self.blockCount, mode: .device)
    for index in 0..<Self.blockCount { try disk.write(content(index, 1), at: index * Self.block) }
    try disk.trim(ByteRange(offset: 0, count: Self.block), durable: true).wake()
    _ = try journal.upkeep()
    for index in 0..<Self.blockCount where index % 4 != 0 {
      try disk.write(content(index, 2), at: index * Self.block)
    }
    try journal.checkpoint()
    return disk
  }

  private func check(_ disk: Disk) throws {
    for index in 1..<Self.blockCount {
      let isRight =
        try disk.bytes(ByteRange(offset: index * Self.block, count: Self.block))
        == content(index, index % 4 == 0 ? 1 : 2)
      #expect(isRight, "block \(index)")
    }
  }

  @Test("lets upkeep give back what is dead when not a byte is free")
  func fullDisk() throws {
    let journal = try open(reserveFrom: 4 << 20)
    defer { journal.abandon() }
    let disk = try fill(journal)
    #expect(reserveBytes == 2 << 20)
    let space = try store.space()
    let taken = space.totalByteCount - space.freeByteCount
    store.byteCount = taken
    let report = try journal.upkeep()
    #expect(report.unlinkedSegments + report.punchedRuns > 0, "\(report)")
    #expect(store.refusalCount > 0, "it was not full")
    let left = try store.space()
    // 6 MiB were dead; 2 of what came free are kept again.
    #expect(left.freeByteCount > 3 << 20, "\(left)")
    // There is room, and so the blocks are kept again.
    #expect(reserveBytes == 2 << 20)
    try check(disk)
    #expect(try journal.livenessFlaw() == nil)
  }

  @Test("is not there in a small journal, whose upkeep then waits for space and goes on with it")
  func smallJournal() throws {
    let journal = try open(reserveFrom: 1 << 30)
    defer { journal.abandon() }
    let disk = try fill(journal)
    #expect(reserveBytes == 0)
    let space = try store.space()
    store.byteCount = space.totalByteCount - space.freeByteCount
    #expect(failure { _ = try journal.upkeep() } == .noSpace)
    try check(disk)
    store.byteCount = 64 << 20
    let report = try journal.upkeep()
    // Of four blocks three are dead, and two of them are a frame of their own.
    #expect(report.unlinkedBytes + report.punchedBytes > 3 << 20, "\(report)")
    try check(disk)
  }

  @Test("counts as kept, not twice, and goes when the journal becomes small")
  func account() throws {
    var before: UInt64 = 0
    do {
      let journal = try open(reserveFrom: 4 << 20)
      before = try #require(try journal.status().reserveBytes)
      _ = try fill(journal)
      let status = try journal.status()
      #expect(status.reserveBytes == before && reserveBytes == 2 << 20)
      let space = try store.space()
      #expect(status.availableBytes == space.freeByteCount - (before - reserveBytes))
      try journal.close()
    }
    #expect(reserveBytes == 2 << 20, "it stays for the next one")
    let next = try open(reserveFrom: 4 << 20)
    defer { next.abandon() }
    #expect(try next.status().reserveBytes == before)
    let same = try #require(next.disks.first)
    try same.trim(ByteRange(offset: 0, count: same.byteCount), durable: true).wake()
    _ = try next.upkeep()
    #expect(reserveBytes == 0)
  }
}
