import BlockFile
import Bytes
import ExtentJournal
import Foundation
import TestKit
import Testing
import Threads

// Goal: who reads a disk in order finds the next frames in the cache, fetched in few large reads; who does not is left
// alone.
// Method: a disk of incompressible frames, whose segment files are read through a store that counts; a test waits until as
// many bytes were read as the thread is to fetch, and then looks who reads what.

private let frameByteCount: UInt64 = 128 << 10
private let frameCount: UInt64 = 160
private let diskByteCount = frameCount * frameByteCount

@Suite struct ReadAheadTests {
  private let fixture: JournalFixture
  private let store: CountingStore
  private let content: [UInt8]

  init() throws {
    fixture = try JournalFixture()
    try fixture.makeDisk("d", byteCount: diskByteCount, mode: .device)
    var random = SeededGenerator(seed: 11)
    content = (0..<diskByteCount / 8).map { _ in random.next() }.withUnsafeBytes { Array($0) }
    for start in stride(from: 0, to: Int(diskByteCount), by: 1 << 20) {
      try fixture.disk.write(Array(content[start..<start + (1 << 20)]), at: UInt64(start))
    }
    try fixture.close()
    store = CountingStore(POSIXDirectory(path: fixture.path + "/segments"))
    fixture.host.segments = store
    // The audit reads frames of its own.
    fixture.host.auditRowsPerCommit = 0
    try fixture.open()
  }

  private func read(_ range: ByteRange, owner: UInt64) throws {
    let bytes = try #require(try fixture.disk.view(range, owner: owner))
    #expect(bytes == Array(content[Int(range.start)..<Int(range.end)]))
  }

  /// Reads `count` MiB in order from `start` in requests of 64 KiB.
  private func readInOrder(_ count: UInt64, from start: UInt64, owner: UInt64) throws {
    for piece in 0..<count * 16 {
      try read(ByteRange(offset: start + piece * 64 << 10, count: 64 << 10), owner: owner)
    }
  }

  @Test(
    "a reader in order finds the next frames in the cache, in a view and as a writer",
    arguments: [false, true])
  func inOrder(writes: Bool) throws {
    let owner = fixture.disk.newOwner()
    let before = store.readCount
    func read(_ range: ByteRange, owner: UInt64) throws {
      guard writes else { return try self.read(range, owner: owner) }
      let bytes = try fixture.disk.bytes(range, owner: owner)
      #expect(bytes == Array(content[Int(range.start)..<Int(range.end)]))
    }
    for piece in 0..<8 as Range<UInt64> {
      try read(ByteRange(offset: piece * 64 << 10, count: 64 << 10), owner: owner)
    }
    // The half MiB that proved it, and a portion. The next one is asked for by the next read, once the first was begun.
    store.wait(forBytes: 3 << 19)
    try read(ByteRange(offset: 512 << 10, count: 64 << 10), owner: owner)
    // The last of two portions, so the first is in the cache.
    store.wait(forBytes: 5 << 19)
    #expect(store.readCount - before <= 12, "frames that lie together are not read together")
    let fetched = store.readCount
    // Another reader, who asks for nothing more.
    for frame in [8, 11, 9, 10] as [UInt64] {
      try read(ByteRange(offset: frame * frameByteCount, count: 4096), owner: fixture.disk.newOwner())
    }
    #expect(store.readCount == fetched)
  }

  @Test("a whole disk is read right in few reads")
  func wholeDisk() throws {
    let before = store.readCount
    try readInOrder(diskByteCount >> 20, from: 0, owner: fixture.disk.newOwner())
    #expect(store.readCount - before <= Int(frameCount) + 24, "something was read twice")
  }

  @Test("a reader that jumps is not helped")
  func random() throws {
    var random = SeededGenerator(seed: 5)
    var frames: Set<UInt64> = []
    let owner = fixture.disk.newOwner()
    let before = store.readCount
    for frame in (0..<frameCount).shuffled(using: &random) {
      frames.insert(frame)
      try read(ByteRange(offset: frame * frameByteCount, count: 4096), owner: owner)
    }
    try fixture.close()
    #expect(store.readCount - before == frames.count)
  }

  @Test("a reader whom two threads serve at once is not helped")
  func twoThreads() throws {
    let disk = fixture.disk
    let owner = disk.newOwner()
    let failures = JournalFixture.Messages()
    let before = store.readCount
    for number in 0..<24 as Range<UInt64> {
      let range = ByteRange(offset: number * frameByteCount, count: frameByteCount)
      if number % 2 == 0 {
        try read(range, owner: owner)
      } else {
        let other = WorkerThread(name: "other") {
          if (try? disk.view(range, owner: owner)) == nil { failures.add("frame \(number)") }
        }
        try #require(other).join()
      }
    }
    try fixture.close()
    #expect(failures.all.isEmpty)
    #expect(store.readCount - before == 24)
  }

  @Test("many readers in order at once, coming and going, each get the whole disk")
  func crowd() throws {
    let disk = fixture.disk
    let content = content
    let failures = JournalFixture.Messages()
    var readers: [WorkerThread] = []
    for reader in 0..<6 as Range<UInt64> {
      readers.append(
        try #require(
          WorkerThread(name: "reader-\(reader)") {
            for turn in 0..<2 as Range<UInt64> {
              let owner = disk.newOwner()
              for piece in 0..<diskByteCount >> 16 {
                let start = (piece << 16 + reader << 20) % diskByteCount
                let bytes = Result { try disk.view(ByteRange(offset: start, count: 64 << 10), owner: owner) }
                guard case .success(let bytes?) = bytes,
                  bytes == Array(content[Int(start)..<Int(start) + 65536])
                else { return failures.add("reader \(reader), turn \(turn), byte \(start)") }
              }
              disk.dropParked(owner: owner)
            }
          }))
    }
    for reader in readers { reader.join() }
    #expect(failures.all.isEmpty, "\(failures.all)")
  }

  @Test("damage ahead of a reader is told to the reader that gets there, and the rest is served")
  func damage() throws {
    try fixture.close()
    fixture.host.segments = nil
    // Raw frames of 128 KiB one after the other: the middle of the file is in the middle of one.
    let file = try FileHandle(forUpdating: URL(fileURLWithPath: fixture.segmentPaths[0]))
    let middle = try file.seekToEnd() / 2
    try file.seek(toOffset: middle)
    try file.write(contentsOf: Data([1, 2, 3, 4, 5, 6, 7, 8, 9]))
    try file.close()
    try fixture.open()
    let disk = fixture.disk
    let owner = disk.newOwner()
    var failed: [UInt64] = []
    for piece in 0..<diskByteCount >> 16 {
      let range = ByteRange(offset: piece << 16, count: 64 << 10)
      do {
        let bytes = try #require(try disk.view(range, owner: owner))
        #expect(bytes == Array(content[Int(range.start)..<Int(range.end)]))
      } catch let error as JournalError {
        #expect(error.kind == .damaged)
        failed.append(piece)
      }
    }
    #expect(failed.count == 2 && failed[0] / 2 == failed[1] / 2, "\(failed) after damage at \(middle)")
  }

  @Test("a journal whose readers never said good-bye can be closed and opened again")
  func noGoodbye() throws {
    for _ in 0..<3 {
      try readInOrder(2, from: 0, owner: fixture.disk.newOwner())
      try fixture.close()
      try fixture.open()
    }
    let owner = fixture.disk.newOwner()
    try readInOrder(2, from: 4 << 20, owner: owner)
    fixture.disk.dropParked(owner: owner)
    fixture.crash()
    try fixture.open()
    try readInOrder(1, from: 0, owner: fixture.disk.newOwner())
  }
}
