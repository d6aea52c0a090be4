import BlockFile
import Bytes
import ExtentJournal
import Foundation
import TestKit
import Testing
import Threads

// Goal: on a disk that fills up nothing is admitted that could not be stored, so that a FLUSH always ends; and writers
// get what `--when-full` says, until there is space again.
// Method: a store of 64 MiB (4 of them reserve) under a push of 96 MiB that does not compress.

@Suite("a journal whose disk fills up")
struct FullDiskTests {
  private let directory: TemporaryDirectory
  private let store: BoundedStore
  private let messages = JournalFixture.Messages()
  private static let blockByteCount = 64 << 10
  private static let blockCount = 96 << 20 / blockByteCount

  init() throws {
    directory = try TemporaryDirectory()
    let segments = directory.file("segments")
    try FileManager.default.createDirectory(atPath: segments, withIntermediateDirectories: true)
    store = BoundedStore(POSIXDirectory(path: segments), byteCount: 64 << 20)
  }

  private func open(_ whenFull: WhenFull) throws -> Journal {
    var options = JournalOptions()
    options.spoolDirectory = directory.path
    options.spoolByteCount = 16 << 20
    options.whenFull = whenFull
    options.stallBudgetNanoseconds = 1_000_000
    var host = JournalHost()
    host.segments = store
    host.fullDiskRetryNanoseconds = 1_000_000
    let messages = messages
    return try Journal.open(directory.file("j"), options: options, host: host) {
      messages.add("\($0): \($1)")
    }
  }

  /// Bytes that do not compress, not even beside their neighbours.
  private static let noise: [UInt64] = {
    var random = SeededGenerator(seed: 4)
    return (0..<(1 << 17)).map { _ in random.next() }
  }()

  private static func block(_ number: Int) -> [UInt8] {
    let words = blockByteCount / 8
    let start = number * words % noise.count
    return ([UInt64(number)] + noise[start + 1..<start + words]).withUnsafeBytes { Array($0) }
  }

  /// Writes block after block; returns how many were acknowledged before the first error.
  @discardableResult
  private static func push(_ disk: Disk, _ blocks: Range<Int>) throws -> Int {
    for number in blocks {
      do {
        try disk.write(block(number), at: UInt64(number * blockByteCount))
      } catch let error as JournalError where error.kind == .noSpace {
        return number
      }
    }
    return blocks.upperBound
  }

  private func expectBlocks(_ disk: Disk, _ blocks: Range<Int>) throws {
    for number in blocks {
      let range = ByteRange(offset: UInt64(number * Self.blockByteCount), count: UInt64(Self.blockByteCount))
      let isRight = try disk.bytes(range) == Self.block(number)
      #expect(isRight, "block \(number)")
    }
  }

  /// Whether the journal comes to say that it is stalled, which `push` should bring about.
  private func stalls(_ journal: Journal, _ push: Background) throws -> Bool {
    let limit = MonotonicClock.nanoseconds() + 30_000_000_000
    while try !journal.status().isStalled {
      if MonotonicClock.nanoseconds() > limit || push.hasEnded(within: 10) { return false }
    }
    return true
  }

  @Test("stalls its writers, flushes what it has acknowledged, takes trims, and goes on when there is space")
  func stall() throws {
    let journal = try open(.stall)
    let disk = try journal.disk("d", byteCount: 96 << 20, mode: .device)
    let push = try Background("push") { try Self.push(disk, 0..<Self.blockCount) }
    #expect(try stalls(journal, push))
    let flush = try Background("flush") {
      try disk.trim(ByteRange(offset: 95 << 20, count: 4096), durable: false).wake()
      try journal.flush()
    }
    flush.finish()
    #expect(!push.hasEnded())
    let written = Int(try journal.status().writtenBytes) / Self.blockByteCount
    #expect(written >= 48 << 20 / Self.blockByteCount, "most of the space can be used")
    #expect(throws: JournalError.self, "a read of what cannot come does not wait") {
      _ = try disk.view(ByteRange(offset: 94 << 20, count: 4096))
    }
    store.byteCount = 256 << 20
    push.finish()
    #expect(try !journal.status().isStalled)
    try expectBlocks(disk, 0..<Self.blockCount)
    #expect(store.refusalCount == 0, "what was admitted always fits")
    #expect(messages.all.count { $0.contains("disk full") } == 1)
    #expect(messages.all.count { $0.contains("space has returned") } == 1)
    try journal.close()
  }

  @Test("fails writes under enospc, keeps what it has acknowledged, and takes them again when there is space")
  func enospc() throws {
    let journal = try open(.enospc)
    let disk = try journal.disk("d", byteCount: 96 << 20, mode: .device)
    let count = try Self.push(disk, 0..<Self.blockCount)
    #expect(count >= 48 << 20 / Self.blockByteCount && count < Self.blockCount)
    #expect(try Self.push(disk, count..<count + 1) == count, "still full")
    try Background("flush") { try journal.flush() }.finish()
    try expectBlocks(disk, 0..<count)
    store.byteCount = 256 << 20
    #expect(try Self.push(disk, count..<Self.blockCount) == Self.blockCount)
    try expectBlocks(disk, 0..<Self.blockCount)
    #expect(store.refusalCount == 0)
    try journal.close()
  }

  @Test("acknowledges and drops under taint; the generation is broken for good, the other disk's is not")
  func taint() throws {
    try taintOnce()
    let journal = try open(.taint)
    #expect(try isTainted(journal, "d") && !isTainted(journal, "small"))
    try journal.close()
  }

  private func isTainted(_ journal: Journal, _ name: String) throws -> Bool {
    try journal.status().disks.first { $0.name == name }!.generations[0].tainted
  }

  /// In a function of its own: a handle of a disk keeps its journal open.
  private func taintOnce() throws {
    let journal = try open(.taint)
    let disk = try journal.disk("d", byteCount: 96 << 20, mode: .device)
    let small = try journal.disk("small", byteCount: 1 << 20, mode: .device)
    try small.write(Self.block(0), at: 0)
    let push = try Background("push") {
      let count = try Self.push(disk, 0..<Self.blockCount)
      #expect(count == Self.blockCount, "every write is acknowledged")
      try disk.flush()
    }
    push.finish()
    #expect(try isTainted(journal, "d") && !isTainted(journal, "small"))
    #expect(throws: JournalError.self) { _ = try disk.view(ByteRange(offset: 0, count: 4096)) }
    try expectBlocks(small, 0..<1)
    #expect(store.refusalCount == 0)
    #expect(messages.all.count { $0.contains("is tainted") } == 1)
    try journal.close()
  }

  @Test("stops in order while its writers wait for space")
  func stop() throws {
    let journal = try open(.stall)
    let disk = try journal.disk("d", byteCount: 96 << 20, mode: .device)
    let push = try Background("push") {
      do { try Self.push(disk, 0..<Self.blockCount) } catch let error as JournalError
        where error.kind == .closing
      {}
    }
    #expect(try stalls(journal, push))
    journal.stopWaiting()
    push.finish()
    try journal.close()
  }
}
