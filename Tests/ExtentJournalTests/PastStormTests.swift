import Bytes
import ExtentJournal
import TestKit
import Testing
import Threads

// Goal: whoever reads a point in time sees it as it was, whatever goes on: while blocks are overwritten, frames move, segments go
// and other points in time are opened; when the journal runs out of space only readers hold the past; and who loses it is told.
// Method: each version of a block has bytes of its own. Segments are small, upkeep never rests, and readers on threads
// of their own compare with the versions that there were at a flush.

@Suite struct PastStormTests {
  private static let blockByteCount = 16 << 10
  private static let blockCount = 96

  /// Bytes that do not compress.
  private static let noise: [UInt64] = {
    var random = SeededGenerator(seed: 4)
    return (0..<(1 << 17)).map { _ in random.next() }
  }()

  /// What a block holds in a version: bytes that are nowhere else, but for some that are elsewhere as far from the beginning.
  private static func content(_ block: Int, _ version: UInt64) -> [UInt8] {
    let words = blockByteCount / 8
    var random = SeededGenerator(seed: UInt64(block) << 32 | version)
    let start = Int.random(in: 1...noise.count - words, using: &random)
    return ([UInt64(block) << 32 | version] + noise[start + 1..<start + words]).withUnsafeBytes { Array($0) }
  }

  private static func range(_ block: Int) -> ByteRange {
    ByteRange(offset: UInt64(block * blockByteCount), count: UInt64(blockByteCount))
  }

  private static func write(_ disk: Disk, _ block: Int, _ version: UInt64) throws {
    try disk.write(content(block, version), at: range(block).start)
  }

  /// What is wrong with `block` of a point in time at which it had `version`; nil when nothing is.
  private static func flaw(of block: Int, at version: UInt64, in past: PastDisk) -> String? {
    let buffer = AlignedBuffer(byteCount: blockByteCount)
    var target = buffer.mutableBytes
    do { _ = try past.read(range(block), into: &target) } catch {
      return "block \(block) of sequence \(past.sequence): \(error)"
    }
    // Version 0 was never written.
    let bytes = Array(buffer.raw)
    let isRight = version == 0 ? bytes.allSatisfy { $0 == 0 } : bytes == content(block, version)
    return isRight ? nil : "block \(block) of sequence \(past.sequence) is not of version \(version)"
  }

  private func fixture(_ change: (inout JournalOptions) -> Void) throws -> JournalFixture {
    let fixture = try JournalFixture(change)
    try fixture.close()
    fixture.host.segmentBytesMax = 1 << 20
    fixture.host.upkeepLimits.punchedBytesMin = 4 << 10
    fixture.host.upkeepLimits.retiredBytesMin = 20 << 10
    fixture.host.upkeepLimits.compactedBytesMin = 0
    fixture.host.upkeepLimits.overheadBytes = 16 << 10
    fixture.host.upkeepLimits.slackBytes = 0
    fixture.host.fullDiskRetryNanoseconds = 1_000_000
    try fixture.open()
    return fixture
  }

  /// The points in time that can be read, with the versions of the blocks.
  private final class Moments: @unchecked Sendable {
    // Sendable: guarded by `lock`.
    private let lock = Lock()
    private var all: [(sequence: UInt64, versions: [UInt64])] = []
    private var reads = 0
    func add(_ sequence: UInt64, _ versions: [UInt64]) {
      lock.withLock { all.append((sequence, versions)) }
    }
    func pick(_ random: inout SeededGenerator) -> (sequence: UInt64, versions: [UInt64])? {
      lock.withLock { all.isEmpty ? nil : all[Int.random(in: 0..<all.count, using: &random)] }
    }
    func noteRead() { lock.withLock { reads += 1 } }
    var readCount: Int { lock.withLock { reads } }
  }

  @Test("readers of points in time see them as they were while everything moves underneath")
  func storm() throws {
    let fixture = try fixture { $0.history = .bytes(6 << 20) }
    let (roundCountMax, hotCount) = (2000, Self.blockCount)
    try fixture.makeDisk(
      "d", byteCount: UInt64((hotCount + roundCountMax) * Self.blockByteCount), mode: .device)
    let journal = try #require(fixture.journal)
    let disk = fixture.disk
    let failures = JournalFixture.Messages()
    let isDone = Flag()
    defer { isDone.set() }
    let moments = Moments()
    var threads: [Background] = []
    for reader in 0..<3 as Range<UInt64> {
      threads.append(
        try Background("reader-\(reader)") {
          var random = SeededGenerator(seed: reader)
          while !isDone.isSet {
            guard let moment = moments.pick(&random) else { continue }
            let past: PastDisk
            do { past = try journal.disk("d", at: moment.sequence) } catch let error as JournalError
              where error.kind == .usage
            {
              // The horizon has passed it.
              continue
            }
            for _ in 0..<40 {
              let block = Int.random(in: 0..<moment.versions.count, using: &random)
              moments.noteRead()
              guard let flaw = Self.flaw(of: block, at: moment.versions[block], in: past) else { continue }
              return failures.add(flaw)
            }
          }
        })
    }
    threads.append(
      try Background("upkeep") { while !isDone.isSet { _ = try journal.upkeep(recompresses: false) } })

    var random = SeededGenerator(seed: 5)
    var versions: [UInt64] = []
    for block in 0..<hotCount {
      versions.append(1)
      try Self.write(disk, block, 1)
    }
    var done = UpkeepReport()
    while versions.count < hotCount + 60 || moments.readCount < 200 || done.unlinkedSegments == 0
      || done.punchedRuns == 0 || done.movedFrames + done.reencodedFrames == 0
    {
      // What is written once and stays keeps segments from being dead; now and then there is none of it.
      try #require(versions.count < hotCount + roundCountMax, "\(moments.readCount) reads, \(done)")
      versions.append(1)
      if versions.count % 20 < 10 {
        try Self.write(disk, versions.count - 1, 1)
      } else {
        versions[versions.count - 1] = 0
      }
      for _ in 0..<40 {
        let block = Int.random(in: 0..<hotCount, using: &random)
        versions[block] += 1
        try Self.write(disk, block, versions[block])
      }
      try journal.flush()
      moments.add(try journal.status().lastSequence, versions)
      done = try journal.spaceStatus().upkeep
    }
    // Readers that began go on to their end, at rest.
    isDone.set()
    for thread in threads { thread.finish() }
    #expect(failures.all.isEmpty, "\(failures.all.prefix(5))")
    #expect(try journal.livenessFlaw() == nil)
  }

  /// Writes a version after the other; returns the first that did not fit.
  private static func push(_ disk: Disk, _ versions: Range<UInt64>) throws -> UInt64 {
    for version in versions {
      do {
        for block in 0..<blockCount { try write(disk, block, version) }
        // What is overwritten in the spool would never be stored.
        try disk.flush()
      } catch let error as JournalError where error.kind == .noSpace { return version }
    }
    return versions.upperBound
  }

  @Test(
    "history gives way to writers, but for what somebody reads; they go on when that is over",
    arguments: [WhenFull.stall, .enospc])
  func quota(whenFull: WhenFull) throws {
    let quota: UInt64 = 64 << 20
    let fixture = try fixture {
      $0.quota = Quota(byteCount: quota)
      $0.whenFull = whenFull
      $0.history = .bytes(1 << 40)
    }
    try fixture.close()
    fixture.host.upkeepEveryNanoseconds = JournalHost().upkeepEveryNanoseconds
    try fixture.open()
    try fixture.makeDisk("d", byteCount: UInt64(Self.blockCount * Self.blockByteCount), mode: .device)
    let journal = try #require(fixture.journal)
    let disk = fixture.disk
    // Three times the quota, and no write fails.
    #expect(try Self.push(disk, 1..<130) == 130)
    #expect(fixture.messages.all.contains { $0.contains("history gives way") })
    #expect(try QuotaTests.ownedBytes(of: fixture.path) <= quota)

    let sequence = try journal.status().lastSequence
    var past: PastDisk? = try journal.disk("d", at: sequence)
    let push = try Background("push") {
      let stopped = try Self.push(disk, 130..<260)
      if whenFull == .stall { #expect(stopped == 260) } else { #expect(stopped < 200) }
    }
    if whenFull == .stall {
      while try !journal.status().isStalled { try #require(!push.hasEnded(within: 10)) }
    } else {
      push.finish()
    }
    #expect(fixture.messages.all.contains { $0.contains("reads sequence \(sequence) keeps") })
    for block in 0..<Self.blockCount {
      #expect(Self.flaw(of: block, at: 129, in: try #require(past)) == nil)
    }
    past = nil
    push.finish()
    // Writers that fail do not wait for what upkeep gives back once the disk is known to be full.
    if whenFull == .enospc { _ = try journal.upkeep() }
    #expect(try Self.push(disk, 260..<300) == 300)
    #expect(failure { _ = try journal.disk("d", at: sequence) } == .usage, "the horizon has passed it")
    for block in 0..<Self.blockCount {
      let isRight = try disk.bytes(Self.range(block)) == Self.content(block, 299)
      #expect(isRight)
    }
    #expect(try QuotaTests.ownedBytes(of: fixture.path) <= quota)
    try fixture.close()
  }

  @Test("whoever reads the past when the index is built again is told, and sees no other bytes")
  func indexLost() throws {
    let isArmed = Flag()
    let fixture = try JournalFixture { $0.history = .bytes(1 << 40) }
    try fixture.close()
    fixture.host.indexFault = { _ in isArmed.take() ? 5 : 0 }
    try fixture.open()
    try fixture.makeDisk("d", byteCount: UInt64(Self.blockCount * Self.blockByteCount), mode: .device)
    let journal = try #require(fixture.journal)
    for block in 0..<Self.blockCount { try Self.write(fixture.disk, block, 1) }
    try journal.flush()
    let past = try journal.disk("d", at: try journal.status().lastSequence)
    for block in 0..<Self.blockCount { try Self.write(fixture.disk, block, 2) }
    try journal.checkpoint()
    #expect(Self.flaw(of: 3, at: 1, in: past) == nil)
    isArmed.set()
    try Self.write(fixture.disk, 0, 3)
    try journal.checkpoint()
    #expect(!isArmed.isSet)
    _ = try journal.upkeep()
    let said = try #require(Self.flaw(of: 3, at: 1, in: past))
    #expect(
      said.contains("the index was built again, and sequence \(past.sequence) of d cannot be read any more"))
    // From the end of the new index on there is a past again.
    try journal.flush()
    let next = try journal.disk("d", at: try journal.status().lastSequence)
    for block in 0..<Self.blockCount { try Self.write(fixture.disk, block, 4) }
    try journal.checkpoint()
    _ = try journal.upkeep()
    for block in 0..<Self.blockCount {
      #expect(Self.flaw(of: block, at: block == 0 ? 3 : 2, in: next) == nil)
    }
  }
}
