import Bytes
import ExtentJournal
import TestKit
import Testing
import Threads

// Goal: a read is never answered with what the guest wrote after the moment; and each step that this takes is needed.
// Method: a guest's write is let in at one place, in the middle of a read of the source or right after it. The journal as
// it is answers with the old bytes or an error; one that leaves a step out (PlantedBug) answers with new ones.

private let block = ByteRange(offset: 128 << 10, count: 64 << 10)
private let old = (0..<1 << 20).map { UInt8(truncatingIfNeeded: $0 / 251 | 1) & 0x7f }
private let new: UInt8 = 0xee

/// A journal with a snapshot disk that has a source, and perhaps a bug.
private struct Setup {
  let fixture: JournalFixture
  let source = FakeSource(old)
  var disk: Disk { fixture.disk }

  init(_ bug: PlantedBug?, _ change: (inout JournalOptions) -> Void = { _ in }) throws {
    fixture = try JournalFixture(change)
    try fixture.close()
    fixture.host.hooks.bug = bug
    try fixture.open()
    try fixture.makeDisk("d", byteCount: 1 << 20, mode: .snapshot)
  }

  func attach() throws { try disk.attach(source) }

  /// What a reader gets of the block; nil is an error.
  func answer() -> [UInt8]? {
    if case .success(let bytes?) = Result(catching: { try disk.view(block) }) { bytes } else { nil }
  }
}

@Suite struct SourceOrderTests {
  private static let expected = Array(old[Int(block.start)..<Int(block.end)])

  @Test(
    "a write of the guest between the two halves of a source read is not seen",
    arguments: [nil, .lookBeforeSource] as [PlantedBug?])
  func torn(bug: PlantedBug?) throws {
    let setup = try Setup(bug)
    let (source, disk) = (setup.source, setup.disk)
    source.duringRead = { _ in try? source.guestWrites(new, to: block, of: disk) }
    try setup.attach()
    let answer = try #require(setup.answer())
    #expect((answer == Self.expected) == (bug == nil))
    if bug != nil { #expect(answer.contains(new)) }
    #expect(source.questionCount == 1)
  }

  @Test(
    "what went from memory to the index while the source was read is found there",
    arguments: [nil, .staleSnapshot] as [PlantedBug?])
  func index(bug: PlantedBug?) throws {
    let setup = try Setup(bug)
    let (source, disk, journal) = (setup.source, setup.disk, setup.fixture.journal!)
    source.duringRead = { _ in
      try? source.guestWrites(new, to: block, of: disk)
      try? journal.checkpoint()
    }
    try setup.attach()
    let answer = try #require(setup.answer())
    #expect((answer == Self.expected) == (bug == nil))
  }

  @Test(
    "a read during which the generation broke fails, for its writes are acknowledged and dropped",
    arguments: [nil, .taintNotChecked] as [PlantedBug?])
  func taint(bug: PlantedBug?) throws {
    let setup = try Setup(bug)
    let (source, disk) = (setup.source, setup.disk)
    source.duringRead = { _ in
      // A contradiction elsewhere breaks it; the old bytes of the block are lost then.
      try? disk.write([1], at: 0)
      try? disk.write([2], at: 0)
      source.overwrite(block, with: new)
    }
    try setup.attach()
    if bug == nil {
      #expect(throws: JournalError.self) { try disk.view(block) }
    } else {
      #expect(try #require(setup.answer()).contains(new))
    }
  }

  @Test(
    "a write acknowledged before it is true, and lost with the process, is taken for one that never was",
    arguments: [nil, .ackBeforeCommitWord] as [PlantedBug?])
  func acknowledgement(bug: PlantedBug?) throws {
    let setup = try Setup(bug)
    try setup.source.guestWrites(new, to: block, of: setup.disk)
    setup.fixture.crash()
    try setup.fixture.open()
    try setup.attach()
    #expect((try #require(setup.answer()) == Self.expected) == (bug == nil))
  }

  @Test(
    "the job is asked after the read ended: one that has ended since is noticed",
    arguments: [
      SourceState.dead("gone"), .unknown("lost"), .awaited,
    ])
  func death(state: SourceState) throws {
    let setup = try Setup(nil)
    let (source, disk) = (setup.source, setup.disk)
    source.afterRead = { _ in
      source.overwrite(block, with: new)
      source.state = state
    }
    try setup.attach()
    #expect(throws: JournalError.self) { try disk.view(block) }
    #expect(try setup.fixture.journal.status().sourceErrors == 1)
  }

  @Test("a thousand writes of the guest under hot readers leave no wrong read", arguments: seeds(2))
  func storm(seed: UInt64) throws {
    let setup = try Setup(nil)
    let (source, disk) = (setup.source, setup.disk)
    try setup.attach()
    let isOver = Flag()
    let wrong = WrongReads()
    let readers = try (0..<3).map { index in
      try Background("reader") {
        var random = SeededGenerator(seed: seed &* 31 &+ UInt64(index))
        while !isOver.isSet {
          let start = UInt64.random(in: 0..<2047, using: &random) * 512
          let count = UInt64.random(in: 1...min(256, 2048 - start / 512), using: &random) * 512
          let range = ByteRange(offset: start, count: count)
          let bytes = try disk.view(range, owner: UInt64(index))
          wrong.note(bytes == Array(old[Int(range.start)..<Int(range.end)]))
        }
      }
    }
    var random = SeededGenerator(seed: seed)
    for (count, sector) in Array(0..<2048 as Range<UInt64>).shuffled(using: &random).enumerated() {
      try source.guestWrites(new, to: ByteRange(offset: sector * 512, count: 512), of: disk)
      if count % 500 == 250 { try setup.fixture.journal.checkpoint() }
    }
    isOver.set()
    for reader in readers { reader.finish() }
    #expect(wrong.count == 0, "of \(wrong.all) reads")
    #expect(wrong.all > 0)
  }
}

/// How many reads were right, and how many not.
private final class WrongReads: @unchecked Sendable {
  // Sendable: guarded by `lock`.
  private let lock = Lock()
  private var counts = (wrong: 0, all: 0)
  func note(_ isRight: Bool) {
    lock.withLock {
      counts.all += 1
      if !isRight { counts.wrong += 1 }
    }
  }
  var count: Int { lock.withLock { counts.wrong } }
  var all: Int { lock.withLock { counts.all } }
}
