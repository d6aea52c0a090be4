import Bytes
import ExtentJournal
import Foundation
import TestKit
import Testing
import Threads

// Goal: nobody who reads, in this process or in another, meets what upkeep frees or moves (rules B and C).
// Method: a reader is held between look-up and copy while upkeep frees what it looked up; an overwrite is committed between a copy
// and its place in the index; both are also done with the rule broken, which must show. A reader of another process keeps its
// files. Then a storm: overwrites, readers and upkeep at once, in which each read is compared.

@Suite struct UpkeepReaderTests {
  @Test(
    "what a reader has looked up is not freed before it has copied",
    arguments: [nil, .framesReadOutsideEpoch, .freedUnderReaders] as [PlantedBug?])
  func readerAndFreeing(bug: PlantedBug?) throws {
    let log = StageLog()
    let isArmed = Flag()
    var hooks = TestHooks()
    hooks.bug = bug
    hooks.atStage = { stage in
      guard isArmed.isSet else { return }
      log.note(stage)
      // The reader stays until upkeep waits for it, or has not waited.
      if stage == .framesWanted { log.wait(for: .freeingWaits, .freed) }
    }
    let machine = try Machine(seed: 2, hooks: hooks, hasUpkeep: true)
    let disk = try #require(machine.journal).disk("a", byteCount: nil, mode: nil)
    try machine.perform(.write(start: 0, count: 60))
    try machine.perform(.checkpoint)
    for _ in 0..<6 {
      try machine.perform(.write(start: 128, count: 60))
      try machine.perform(.checkpoint)
    }
    let range = ByteRange(offset: 0, count: 60 * 512)
    let result = Outcome()
    isArmed.set()
    let reader = try #require(
      WorkerThread(name: "reader") { result.bytes = try? disk.bytes(range) })
    log.wait(for: .framesWanted)
    try machine.perform(.trim(start: 0, count: 60))
    try machine.perform(.upkeep)
    log.end()
    reader.join()
    let isRight = try result.bytes?.prefix(4) == machine.firstBytes(1)
    #expect(isRight == (bug == nil), "\(result.bytes?.prefix(8) ?? [])")
    #expect(machine.upkeep.last.map { $0.punchedRuns + $0.unlinkedSegments > 0 } ?? false)
  }

  @Test(
    "an overwrite between a copy and its place stays", arguments: [nil, .moveWithoutCompare] as [PlantedBug?])
  func moveAndOverwrite(bug: PlantedBug?) throws {
    let log = StageLog()
    let isArmed = Flag()
    var hooks = TestHooks()
    hooks.bug = bug
    hooks.atStage = { stage in
      guard isArmed.isSet else { return }
      if stage == .copied {
        log.note(stage)
        log.wait(for: .recordTrue)
      }
    }
    let machine = try Machine(seed: 2, hooks: hooks, hasUpkeep: true)
    let journal = try #require(machine.journal)
    try machine.perform(.write(start: 0, count: 120))
    try machine.perform(.checkpoint)
    try machine.perform(.write(start: 20, count: 100))
    try machine.perform(.checkpoint)
    for _ in 0..<6 {
      try machine.perform(.write(start: 128, count: 60))
      try machine.perform(.checkpoint)
    }
    isArmed.set()
    let upkeep = try #require(
      WorkerThread(name: "upkeep") {
        if case .failure(let error) = Result(catching: { try journal.upkeep() }) { Issue.record(error) }
      })
    log.wait(for: .copied)
    try machine.perform(.write(start: 4, count: 8))
    try machine.perform(.checkpoint)
    log.note(.recordTrue)
    log.end()
    upkeep.join()
    #expect(try machine.isCurrent("moved") == (bug == nil))
  }

  // In one process LMDB's environment must not be open twice: the lock stands for the other one.
  @Test("nothing is freed while another process reads, and a reader holds the lock that says so")
  func otherProcess() throws {
    let setup = try UpkeepSetup()
    for version in 1...4 as ClosedRange<UInt64> { try setup.writeAll(version) }
    let lock = open(setup.fixture.path + "/readers", O_RDWR | O_CREAT, 0o600)
    defer { close(lock) }
    #expect(flock(lock, LOCK_SH) == 0)
    let held = try setup.fixture.journal.upkeep()
    #expect(
      held.postponements > 0 && held.unlinkedSegments == 0 && held.punchedRuns == 0 && held.movedRecords == 0)
    #expect(flock(lock, LOCK_UN) == 0)
    let freed = try setup.fixture.journal.upkeep()
    #expect(freed.unlinkedSegments + freed.punchedRuns > 0)
    try setup.fixture.close()
    var reader: JournalReader? = try JournalReader.open(setup.fixture.path)
    #expect(flock(lock, LOCK_EX | LOCK_NB) != 0, "a reader does not say that it reads")
    #expect(try setup.replayed(reader!) == setup.image(4))
    let report = try Verification.run(on: reader!) { _, _ in }
    #expect(report.flaws.isEmpty, "\(report.flaws)")
    reader = nil
    #expect(flock(lock, LOCK_EX | LOCK_NB) == 0)
  }

  @Test("in a storm of overwrites and upkeep no reader sees a wrong byte or an error")
  func storm() throws {
    let setup = try UpkeepSetup()
    let versions = try weather(setup)
    try setup.fixture.close()
    #expect(try setup.replayed(JournalReader.open(setup.fixture.path)) == setup.content(versions))
    try setup.fixture.removeIndex()
    try setup.fixture.open()
    for block in 0..<UpkeepSetup.blockCount {
      let seen = try UpkeepSetup.version(of: setup.fixture.disk.bytes(UpkeepSetup.range(block)), block: block)
      #expect(seen == versions[Int(block)], "after a rebuild")
    }
    #expect(try setup.fixture.journal.status().damage == nil)
  }

  /// The storm; returns which version of each block was written last.
  private func weather(_ setup: UpkeepSetup) throws -> [UInt64] {
    let journal = try #require(setup.fixture.journal)
    let disk = setup.fixture.disk
    let failures = JournalFixture.Messages()
    let isDone = Flag()
    try setup.writeAll(1)
    var threads: [WorkerThread] = []
    for number in 0..<2 as Range<UInt64> {
      threads.append(
        try #require(
          WorkerThread(name: "reader-\(number)") {
            var random = SeededGenerator(seed: number)
            while !isDone.isSet {
              let block = UInt64.random(in: 0..<UpkeepSetup.blockCount, using: &random)
              switch Result(catching: { try disk.bytes(UpkeepSetup.range(block)) }) {
              case .success(let bytes):
                if UpkeepSetup.version(of: bytes, block: block) == nil {
                  failures.add("block \(block) is wrong")
                }
              case .failure(let error): failures.add("block \(block): \(error)")
              }
            }
          }))
    }
    threads.append(
      try #require(
        WorkerThread(name: "upkeep") {
          while !isDone.isSet {
            if case .failure(let error) = Result(catching: { try journal.upkeep() }) {
              failures.add("\(error)")
            }
          }
        }))
    var random = SeededGenerator(seed: 5)
    var versions = [UInt64](repeating: 1, count: Int(UpkeepSetup.blockCount))
    for step in 0..<6000 {
      // Some blocks are written again and again, so that segments die at different speeds.
      let bound = step % 3 == 0 ? UpkeepSetup.blockCount : UpkeepSetup.blockCount / 8
      let block = UInt64.random(in: 0..<bound, using: &random)
      versions[Int(block)] += 1
      try setup.write(block, versions[Int(block)])
      if step % 200 == 199 { try journal.spill() }
      let seen = try UpkeepSetup.version(of: disk.bytes(UpkeepSetup.range(block)), block: block)
      if seen != versions[Int(block)] {
        failures.add("block \(block): own write is not there at step \(step)")
      }
    }
    isDone.set()
    for thread in threads { thread.join() }
    _ = try journal.upkeep()
    for block in 0..<UpkeepSetup.blockCount {
      let seen = try UpkeepSetup.version(of: disk.bytes(UpkeepSetup.range(block)), block: block)
      #expect(seen == versions[Int(block)])
    }
    #expect(failures.all.isEmpty, "\(failures.all.prefix(5))")
    #expect(try journal.livenessFlaw() == nil)
    let status = try journal.spaceStatus()
    print("storm: \(status)")
    let done = status.upkeep
    #expect(
      done.movedFrames > 0 && done.reencodedFrames > 0 && done.punchedRuns > 0 && done.unlinkedSegments > 0)
    return versions
  }
}

/// Goal: what is cold takes less and is the same. Method: a disk of text, written in a hurry, then recompressed, also with holes
/// in it; read again, and read from an index that was built again.
@Suite struct RecompressionTests {
  @Test("what is cold is stored in fewer bytes, and is the same, also after a rebuild")
  func cold() throws {
    let fixture = try JournalFixture()
    fixture.host.upkeepLimits.coldNanoseconds = 0
    fixture.host.segmentBytesMax = 2 << 20
    try fixture.close()
    try fixture.open()
    let size = 8 << 20
    try fixture.makeDisk("d", byteCount: UInt64(size), mode: .device)
    var random = SeededGenerator(seed: 3)
    let words = (0..<3000).map { _ in String(random.next(), radix: 36) }
    var text: [UInt8] = []
    while text.count < size { text += Array(words.randomElement(using: &random)!.utf8) + [32] }
    text.removeLast(text.count - size)
    for start in stride(from: 0, to: size, by: 64 << 10) {
      try fixture.disk.write(Array(text[start..<start + (64 << 10)]), at: UInt64(start))
      if start % (1 << 20) == 0 { try fixture.journal.spill() }
    }
    // Frames that are live in part, and one that is not there any more.
    try fixture.disk.trim(ByteRange(offset: 1 << 20, count: 300 << 10), durable: false).wake()
    try fixture.disk.trim(ByteRange(offset: 4 << 20, count: 4096), durable: false).wake()
    for index in (1 << 20)..<(1 << 20) + (300 << 10) { text[index] = 0 }
    for index in (4 << 20)..<(4 << 20) + 4096 { text[index] = 0 }
    let plain = try fixture.journal.upkeep()
    #expect(plain.recompressedFrames == 0)
    // What is in the open segment is not cold yet.
    try fixture.close()
    try fixture.open()
    try fixture.disk.write(Array(text[0..<4096]), at: 0)
    let before = try fixture.journal.spaceStatus().segmentBytes
    let done = try fixture.journal.upkeep(recompresses: true)
    let after = try fixture.journal.spaceStatus()
    print("recompression: \(before) bytes before, \(after)")
    #expect(done.recompressedFrames > 20 && after.segmentBytes < before * 95 / 100)
    #expect(try fixture.journal.livenessFlaw() == nil)
    let again = try fixture.journal.upkeep(recompresses: true)
    #expect(again.recompressedFrames == 0, "it is done once")
    func check() throws {
      for start in stride(from: 0, to: size, by: 1 << 20) {
        let found = try fixture.disk.bytes(ByteRange(offset: UInt64(start), count: 1 << 20))
        #expect(found == Array(text[start..<start + (1 << 20)]), "at \(start)")
      }
    }
    try check()
    try fixture.close()
    try fixture.removeIndex()
    try fixture.open()
    try check()
  }
}

/// Goal: upkeep comes to rest, whatever is dead. Method: frames of which a part is overwritten, small ones with many extents too;
/// how much is written until nothing is left to do is bounded.
@Suite struct CompactionRestTests {
  @Test(
    "compaction comes to rest though frames are dead in part",
    arguments: [
      (kept: 5, of: 8, piece: 8192), (kept: 3, of: 4, piece: 4096), (kept: 7, of: 8, piece: 8192),
      (kept: 2, of: 3, piece: 512),
    ])
  func rest(shape: (kept: Int, of: Int, piece: Int)) throws {
    let fixture = try JournalFixture()
    fixture.host.segmentBytesMax = 1 << 20
    fixture.host.upkeepLimits.slackBytes = 0
    fixture.host.upkeepLimits.compactedBytesMin = 16 << 10
    fixture.host.upkeepLimits.overheadBytes = 24 << 10
    try fixture.close()
    try fixture.open()
    let size = 8 << 20
    try fixture.makeDisk("d", byteCount: UInt64(size), mode: .device)
    var random = SeededGenerator(seed: 7)
    func write(_ index: Int) throws {
      // Small pieces shrink, so that their headers are most of what they take.
      var bytes = [UInt8](repeating: UInt8(index % 251) + 1, count: shape.piece)
      for place in 0..<(shape.piece > 512 ? shape.piece : 64) {
        bytes[place] = UInt8.random(in: 0...255, using: &random)
      }
      try fixture.disk.write(bytes, at: UInt64(index * shape.piece))
    }
    let count = size / shape.piece
    for index in 0..<count { try write(index) }
    try fixture.journal.checkpoint()
    for index in 0..<count where index % shape.of >= shape.kept { try write(index) }
    try fixture.journal.checkpoint()
    let first = try fixture.journal.spaceStatus()
    var looks = 0
    let done = try fixture.journal.upkeep(
      isCancelled: {
        looks += 1
        return looks > 200
      })
    let space = try fixture.journal.spaceStatus()
    print("\(shape): \(looks) looks, \(done), \(space.liveBytes) live of \(space.segmentBytes)")
    #expect(looks < 200 && done.writtenBytes < 2 * first.segmentBytes)
    #expect(try fixture.journal.upkeep().compactedSegments == 0, "there was nothing left to do")
  }
}

@Suite struct IndexCompactionTests {
  @Test("an index of which most is free is made small while the journal is read, and says the same")
  func halfFree() throws {
    let fixture = try JournalFixture()
    fixture.host.upkeepLimits.indexBytesMin = 128 << 10
    try fixture.close()
    try fixture.open()
    let count: UInt64 = 6000
    let stride: UInt64 = 1 << 20
    try fixture.makeDisk("d", byteCount: count * stride, mode: .device)
    for index in 0..<count {
      try fixture.disk.write([UInt8](repeating: UInt8(index % 255) + 1, count: 512), at: index * stride)
    }
    try fixture.journal.checkpoint()
    let before = try fixture.journal.status().indexBytes
    try fixture.disk.trim(ByteRange(offset: 100 * stride, count: (count - 100) * stride), durable: false)
      .wake()
    let isDone = Flag()
    let disk = fixture.disk
    let failures = JournalFixture.Messages()
    let reader = try #require(
      WorkerThread(name: "reader") {
        var index: UInt64 = 0
        while !isDone.isSet {
          index = (index + 7) % 100
          let outcome = Result { try disk.bytes(ByteRange(offset: index * stride, count: 1024)) }
          switch outcome {
          case .success(let bytes):
            if bytes[0] != UInt8(index % 255) + 1 || bytes[1023] != 0 { failures.add("block \(index)") }
          case .failure(let error): failures.add("\(error)")
          }
        }
      })
    let done = try fixture.journal.upkeep()
    isDone.set()
    reader.join()
    #expect(failures.all.isEmpty, "\(failures.all.prefix(3))")
    let after = try fixture.journal.status().indexBytes
    print("index: \(before) bytes, then \(after)")
    #expect(done.indexCompactions == 1 && after * 3 < before)
    #expect(try fixture.journal.livenessFlaw() == nil)
    for index in [0, 99, 100, count - 1] {
      let bytes = try disk.bytes(ByteRange(offset: index * stride, count: 512))
      #expect(bytes.allSatisfy { $0 == (index < 100 ? UInt8(index % 255) + 1 : 0) }, "block \(index)")
    }
    #expect(try fixture.journal.upkeep().indexCompactions == 0)
  }
}

/// Bytes that one thread finds for another.
private final class Outcome: @unchecked Sendable {
  // Sendable: guarded by `lock`.
  private let lock = Lock()
  private var found: [UInt8]?
  var bytes: [UInt8]? {
    get { lock.withLock { found } }
    set { lock.withLock { found = newValue } }
  }
}

/// A device disk of blocks whose bytes say which block and version they are, in small segments.
struct UpkeepSetup {
  static let blockByteCount: UInt64 = 8 << 10
  static let blockCount: UInt64 = 256

  let fixture: JournalFixture

  init() throws {
    fixture = try JournalFixture()
    fixture.host.segmentBytesMax = 1 << 20
    fixture.host.upkeepLimits.punchedBytesMin = 32 << 10
    fixture.host.upkeepLimits.compactedBytesMin = 64 << 10
    fixture.host.upkeepLimits.slackBytes = 512 << 10
    fixture.host.upkeepLimits.sealedBytesMin = 64 << 10
    try fixture.close()
    try fixture.open()
    try fixture.makeDisk("d", byteCount: Self.blockCount * Self.blockByteCount, mode: .device)
  }

  static func range(_ block: UInt64) -> ByteRange {
    ByteRange(offset: block * blockByteCount, count: blockByteCount)
  }

  /// The first word says block and version, the others cannot be compressed.
  static func bytes(_ block: UInt64, _ version: UInt64) -> [UInt8] {
    let first = block << 48 | version
    var random = SeededGenerator(seed: first)
    var words = (0..<Int(blockByteCount / 8)).map { _ in random.next() }
    words[0] = first
    return words.withUnsafeBytes { Array($0) }
  }

  /// Which version of `block` these are; nil when they are none.
  static func version(of bytes: [UInt8], block: UInt64) -> UInt64? {
    let first = bytes.withUnsafeBytes { $0.loadUnaligned(as: UInt64.self) }
    guard first >> 48 == block, bytes == self.bytes(block, first & 0xFFFF_FFFF_FFFF) else { return nil }
    return first & 0xFFFF_FFFF_FFFF
  }

  func write(_ block: UInt64, _ version: UInt64) throws {
    try fixture.disk.write(Self.bytes(block, version), at: block * Self.blockByteCount)
  }

  func writeAll(_ version: UInt64) throws {
    for block in 0..<Self.blockCount { try write(block, version) }
    try fixture.journal.checkpoint()
  }

  func image(_ version: UInt64) -> [UInt8] { (0..<Self.blockCount).flatMap { Self.bytes($0, version) } }

  func content(_ versions: [UInt64]) throws -> [UInt8] {
    versions.enumerated().flatMap { Self.bytes(UInt64($0.offset), $0.element) }
  }

  /// What `reader` sees of the disk.
  func replayed(_ reader: JournalReader) throws -> [UInt8] {
    let output = fixture.directory.file("out")
    _ = try Replay.toRawFile(from: reader, disk: "d", output: output)
    return Array(try Data(contentsOf: URL(fileURLWithPath: output)))
  }
}
