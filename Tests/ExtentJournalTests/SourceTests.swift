import Bytes
import ExtentJournal
import TestKit
import Testing
import Threads

// Goal: what a reader of a disk with a source gets, piece by piece, and what it costs the source.
// Method: one journal each and a source in memory, whose reads and questions are counted.

private let old = (0..<4 << 20).map { UInt8(truncatingIfNeeded: $0 / 509 | 1) }
private let block = ByteRange(offset: 64 << 10, count: 64 << 10)

@Suite struct SourceTests {
  private func disk(
    _ source: FakeSource, mode: DiskMode = .snapshot, _ change: (inout JournalOptions) -> Void = { _ in }
  ) throws -> JournalFixture {
    let fixture = try JournalFixture(change)
    try fixture.makeDisk("d", byteCount: 4 << 20, mode: mode)
    try fixture.disk.attach(source)
    return fixture
  }

  private func expected(_ range: ByteRange) -> [UInt8] { Array(old[Int(range.start)..<Int(range.end)]) }

  @Test("absent is the source's, arrived the journal's, sector by sector")
  func overlay() throws {
    let source = FakeSource(old)
    let fixture = try disk(source)
    try fixture.disk.write([UInt8](repeating: 9, count: 1024), at: block.start + 512)
    try fixture.disk.writeZeroes(
      ByteRange(offset: block.start + 8192, count: 512), mayTrim: false, durable: false
    ).wake()
    let range = ByteRange(start: block.start - 100, end: block.end + 300)
    var wanted = expected(range)
    wanted.replaceSubrange(612..<612 + 1024, with: repeatElement(9, count: 1024))
    wanted.replaceSubrange(8292..<8292 + 512, with: repeatElement(0, count: 512))
    #expect(try fixture.disk.view(range) == wanted)
    #expect(try fixture.disk.view(range) == wanted, "kept, it is another")
  }

  @Test("a read that begins and ends in what has arrived gets that too", arguments: [false, true])
  func middle(isKept: Bool) throws {
    let source = FakeSource(old)
    let fixture = try disk(source)
    let (before, after) = (ByteRange(offset: 0, count: 65536), ByteRange(offset: 128 << 10, count: 65536))
    try source.guestWrites(0xee, to: before, of: fixture.disk)
    try source.guestWrites(0xee, to: after, of: fixture.disk)
    if isKept { #expect(try fixture.disk.view(block) == expected(block)) }
    let range = ByteRange(start: before.start + 512, end: after.end - 512)
    #expect(try fixture.disk.view(range) == expected(range))
    #expect(source.readRanges == [block])
  }

  @Test("any range is right, whatever of it has arrived", arguments: seeds(8))
  func anyRange(seed: UInt64) throws {
    var random = SeededGenerator(seed: seed)
    let source = FakeSource(old)
    let fixture = try disk(source)
    // Each cluster is sent once, as qemu does.
    var clusters = (0..<64).shuffled(using: &random)
    for _ in 0..<200 {
      let start = UInt64.random(in: 0..<(4 << 20) - 512, using: &random)
      let count = UInt64.random(in: 1...min((4 << 20) - start, 2 << 20), using: &random)
      let range = ByteRange(offset: start, count: count)
      #expect(try fixture.disk.view(range) == expected(range), "seed \(seed), \(range)")
      guard Int.random(in: 0..<3, using: &random) == 0, let cluster = clusters.popLast() else { continue }
      let written = ByteRange(offset: UInt64(cluster) << 16, count: 1 << 16)
      try source.guestWrites(0xee, to: written, of: fixture.disk)
    }
  }

  @Test("what was read of the source is kept, served without asking again, and only if it was valid")
  func kept() throws {
    let source = FakeSource(old)
    let fixture = try disk(source)
    #expect(try fixture.disk.view(block) == expected(block))
    #expect(source.questionCount == 1)
    // What has arrived since is the journal's, which says the same; the rest is what was kept.
    try source.guestWrites(0xee, to: ByteRange(offset: block.start, count: 512), of: fixture.disk)
    source.overwrite(ByteRange(start: block.start + 512, end: block.end), with: 0xff)
    #expect(try fixture.disk.view(block) == expected(block))
    #expect(source.readRanges == [block] && source.questionCount == 1)
    let status = try fixture.journal.status()
    #expect(status.readsFromSource == 2 && status.sourceBytes == block.count && status.sourceErrors == 0)
  }

  @Test("a thread that may not wait is told so, and served when it is not the source that is needed")
  func reader() throws {
    let source = FakeSource(old)
    let fixture = try disk(source)
    let buffer = AlignedBuffer(byteCount: Int(block.count))
    func read() throws -> ViewRead {
      var target = buffer.mutableBytes
      return try fixture.disk.readView(
        block, into: &target, since: MonotonicClock.nanoseconds(), isRetry: false, owner: 1, mayBlock: false,
        wake: { { _ in Issue.record("it was parked") } })
    }
    guard case .blocks = try read() else { return #expect(Bool(false), "it went to the source") }
    #expect(source.readRanges.isEmpty)
    #expect(try fixture.disk.view(block) == expected(block))
    guard case .served(let runs) = try read() else { return #expect(Bool(false), "it was not kept") }
    #expect(runs.count == 1 && runs[0].range == block && !runs[0].isZero)
    #expect(Array(buffer.raw) == expected(block))
  }

  @Test("a reader in order is fetched for in windows that double up to a MiB; one that jumps is not")
  func windows() throws {
    let source = FakeSource(old)
    let fixture = try disk(source)
    for offset in stride(from: 0, to: 4 << 20, by: 4096) as StrideTo<UInt64> {
      let range = ByteRange(offset: offset, count: 4096)
      #expect(try fixture.disk.view(range, owner: 7) == expected(range))
    }
    let sizes = source.readRanges.map { $0.count >> 10 }
    #expect(sizes == [64, 128, 256, 512, 1024, 1024, 1024, 64])
    let other = FakeSource(old)
    let jumping = try disk(other)
    for offset in [3 << 20, 1 << 20, 2 << 20, 0] as [UInt64] {
      _ = try jumping.disk.view(ByteRange(offset: offset, count: 512), owner: 7)
    }
    #expect(other.readRanges.map { $0.count } == [65536, 65536, 65536, 65536])
  }

  @Test("a read larger than a window is the source's and the journal's, in order")
  func large() throws {
    let source = FakeSource(old)
    let fixture = try disk(source)
    try source.guestWrites(0xee, to: ByteRange(offset: 1 << 20, count: 1 << 20), of: fixture.disk)
    let all = ByteRange(start: 512, end: (4 << 20) - 512)
    #expect(try fixture.disk.view(all) == expected(all))
    #expect(source.readRanges.allSatisfy { $0.end <= 1 << 20 || $0.start >= 2 << 20 })
  }

  @Test("before its job is seen reads wait, and then go to the source", arguments: DiskMode.allCases)
  func awaited(mode: DiskMode) throws {
    let source = FakeSource(old, state: .awaited)
    // A live source overrides what would be said of absent sectors.
    let fixture = try disk(source, mode: mode) {
      $0.unarrived = .zeroes
      $0.afterComplete = .zeroes
    }
    let wakes = WakeCount()
    #expect(try fixture.disk.view(block, wake: wakes.add) == nil)
    #expect(source.readRanges.isEmpty)
    try fixture.disk.complete()
    wakes.wait(for: 1)
    #expect(try fixture.disk.view(block, wake: wakes.add) == nil, "completion overrides the source")
    source.state = .alive
    fixture.disk.sourceChanged()
    wakes.wait(for: 2)
    #expect(try fixture.disk.view(block) == expected(block))
  }

  @Test("a source that is attached, or let go, wakes who waits")
  func attaching() throws {
    let fixture = try JournalFixture()
    try fixture.makeDisk("d", byteCount: 4 << 20, mode: .snapshot)
    let wakes = WakeCount()
    #expect(try fixture.disk.view(block, wake: wakes.add) == nil)
    try fixture.disk.attach(FakeSource(old))
    #expect(wakes.all.count == 1)
    #expect(try fixture.disk.view(block) == expected(block))
    fixture.disk.endSource("the test is over")
    let error = #expect(throws: JournalError.self) { try fixture.disk.view(block) }
    #expect(error?.message.contains("the test is over") == true)
  }

  @Test("a dead job, and a source that fails, are errors with a reason, and never other bytes")
  func errors() throws {
    let source = FakeSource(old)
    let fixture = try disk(source, mode: .device) {
      $0.unarrived = .zeroes
      $0.afterComplete = .zeroes
    }
    source.fail(JournalError(.failed, "no such disk"))
    #expect(throws: JournalError.self) { try fixture.disk.view(block) }
    source.fail(nil)
    #expect(try fixture.disk.view(block) == expected(block))
    source.state = .dead("it was cancelled")
    try fixture.disk.complete()
    let error = #expect(throws: JournalError.self) { try fixture.disk.view(block) }
    #expect(error?.message.contains("it was cancelled") == true)
    #expect(try fixture.journal.status().sourceErrors == 2)
  }

  @Test("absent is data in block status while there is a source, whatever it would be without")
  func status() throws {
    let fixture = try disk(FakeSource(old), mode: .device) { $0.unarrived = .zeroes }
    try fixture.disk.writeZeroes(
      ByteRange(offset: 0, count: 65536), mayTrim: true, durable: false
    ).wake()
    try fixture.disk.complete()
    let runs = try fixture.disk.status(ByteRange(start: 0, end: 4 << 20), asWriter: false, limit: 10)
    #expect(
      runs == [
        StatusRun(byteCount: 65536, isHole: true), StatusRun(byteCount: (4 << 20) - 65536, isHole: false),
      ])
  }

  @Test("a source of another size is refused, with both sizes")
  func size() throws {
    let fixture = try JournalFixture()
    try fixture.makeDisk("d", byteCount: 1 << 20, mode: .snapshot)
    let error = #expect(throws: JournalError.self) { try fixture.disk.attach(FakeSource(old)) }
    #expect(error?.kind == .usage)
    #expect(error?.message.contains("4194304") == true && error?.message.contains("1048576") == true)
  }

  @Test("a closing journal lets go of reads that wait for their turn at a source that hangs")
  func closing() throws {
    let source = FakeSource(old)
    let (inside, open, ended) = (WakeCount(), WakeCount(), WakeCount())
    source.duringRead = { _ in
      inside.add(.retry)
      open.wait(for: 1)
    }
    let fixture = try disk(source)
    let disk = fixture.disk
    // One more than may read at once: it waits for them.
    let readers = try (0..<17 as Range<UInt64>).map { index in
      try Background("reader") {
        #expect(throws: JournalError.self) { try disk.view(ByteRange(offset: index << 16, count: 512)) }
        ended.add(.retry)
      }
    }
    inside.wait(for: 16)
    fixture.journal.stopWaiting()
    ended.wait(for: 1)
    open.add(.retry)
    for reader in readers { reader.finish() }
    #expect(source.readRanges.count == 16)
  }

  @Test("what was seen of a job, and its speed, outlive a crash, an index and an orderly end")
  func records() throws {
    let fixture = try JournalFixture()
    try fixture.makeDisk("d", byteCount: 1 << 20, mode: .snapshot)
    let speed = JobSpeed(job: "job", bytesPerSecond: 77 << 20, loweredTo: 1 << 20)
    try fixture.disk.recordSeenJob("job")
    try fixture.disk.recordLowered(speed)
    func expectBoth(_ when: String) {
      #expect(fixture.disk.seenJob == "job" && fixture.disk.loweredJob == speed, "\(when)")
    }
    fixture.crash()
    try fixture.open()
    expectBoth("after a crash")
    try fixture.close()
    try fixture.open()
    expectBoth("from the index")
    try fixture.close()
    try fixture.removeIndex()
    try fixture.open()
    expectBoth("from the segments")
    try fixture.disk.recordRestored()
    #expect(fixture.disk.loweredJob == nil)
    try fixture.close()
    try fixture.open()
    #expect(fixture.disk.loweredJob == nil && fixture.disk.seenJob == "job")
  }
}
