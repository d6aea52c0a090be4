import Bytes
import ExtentJournal
import Foundation
import TestKit
import Testing

// Goal: what was released is gone for everybody and for good, whatever comes later and whoever dies meanwhile.
// Method: releases of each state that a sector can be in, then every way to read or to write it; again from the ring,
// from the segments alone and from an index that is built anew. A history at random against a model; bugs planted.

@Suite struct ReleaseTests {
  typealias Setup = GenerationSetup

  private func hooks(_ bug: PlantedBug?) -> TestHooks {
    var hooks = TestHooks()
    hooks.bug = bug
    return hooks
  }

  private func released(_ disk: Disk, _ blocks: Range<UInt64>) throws {
    try disk.release(Setup.range(blocks)).wake()
  }

  @Test(
    "a later write of the job does not bring back what was released",
    arguments: [nil, .tombstoneOverwritten] as [PlantedBug?])
  func writesAreDropped(bug: PlantedBug?) throws {
    let setup = try Setup(hooks: hooks(bug))
    #expect(try tombstonesHold(setup) == (bug == nil))
  }

  private func tombstonesHold(_ setup: Setup) throws -> Bool {
    let disk = setup.fixture.disk
    try setup.write(0..<4, 1, to: disk)
    try released(disk, 2..<6)
    // All of it, half of it, none of it under the tombstone; other bytes than before do not taint under it.
    try setup.write(2..<6, 2, to: disk)
    let around = Setup.content(1, 1) + Setup.content(2, 7)
    try disk.write(around, at: Setup.block)
    try disk.writeZeroes(Setup.range(5..<7), mayTrim: false, durable: false).wake()
    guard disk.taintReason == nil else { return false }
    for block in UInt64(2)..<6 {
      guard failure({ _ = try setup.view("live", block..<block + 1) }) == .notPermitted else { return false }
    }
    #expect(try setup.view("live", 1..<2) == Setup.content(1, 1))
    #expect(try setup.view("live", 6..<7) == [UInt8](repeating: 0, count: Int(Setup.block)))
    return true
  }

  @Test("what was released stays so through a kill, a close and a new index")
  func staysThroughEverything() throws {
    let setup = try Setup()
    try setup.write(0..<8, 1, to: setup.fixture.disk)
    try setup.journal.flush()
    try released(setup.fixture.disk, 2..<4)
    func check(_ when: String) throws {
      #expect(failure { _ = try setup.view("live", 3..<4) } == .notPermitted, "\(when)")
      #expect(failure { _ = try setup.view("live", 1..<3) } == .notPermitted, "\(when)")
      #expect(try setup.view("live", 4..<8) == (4..<8).flatMap { Setup.content($0, 1) }, "\(when)")
    }
    try check("in the ring")
    setup.fixture.crash()
    try setup.fixture.open()
    try check("from the ring of a process that died")
    try setup.journal.spill()
    try check("in a segment")
    try setup.journal.checkpoint()
    try check("in the index")
    try setup.fixture.close()
    try setup.fixture.removeIndex()
    try setup.fixture.open()
    try check("from the segments alone")
    try setup.write(2..<4, 1, to: setup.fixture.disk)
    try check("after the job has sent it again")
  }

  @Test("a terabyte is released by one record, and a row of the index says so")
  func rangeRow() throws {
    let fixture = try JournalFixture()
    try fixture.makeDisk("d", byteCount: 1 << 40, mode: .snapshot)
    try fixture.disk.write([UInt8](repeating: 7, count: 4096), at: 5 << 30)
    try fixture.disk.release(ByteRange(start: 1 << 20, end: 1 << 40)).wake()
    try fixture.close()
    try fixture.open()
    #expect(failure { _ = try fixture.disk.view(ByteRange(offset: 5 << 30, count: 4096)) } == .notPermitted)
    // A write in its middle does not cut it.
    try fixture.disk.write([UInt8](repeating: 7, count: 4096), at: 5 << 30)
    try fixture.journal.checkpoint()
    #expect(failure { _ = try fixture.disk.view(ByteRange(offset: 5 << 30, count: 512)) } == .notPermitted)
    var runs = 0
    try JournalReader.open(fixture.path).forEachExtent(of: "d") { _, placement in
      #expect(placement == .release)
      runs += 1
    }
    #expect(runs <= 3)
  }

  @Test("a release is never answered from the source, and never fetched from it again")
  func neverTheSource() throws {
    let setup = try Setup()
    let source = FakeSource([UInt8](repeating: 9, count: Int(Setup.byteCount)))
    let disk = setup.fixture.disk
    try disk.attach(source)
    #expect(try disk.view(Setup.range(0..<1)) != nil)
    try released(disk, 0..<2)
    try released(disk, 5..<6)
    #expect(failure { _ = try disk.view(Setup.range(0..<1)) } == .notPermitted)
    #expect(failure { _ = try disk.view(Setup.range(1..<3)) } == .notPermitted)
    for block in UInt64(2)..<5 { _ = try disk.view(Setup.range(block..<block + 1)) }
    let fetched = source.readRanges.dropFirst()
    #expect(!fetched.isEmpty)
    for range in fetched {
      #expect(range.intersection(Setup.range(0..<2)) == nil && range.intersection(Setup.range(5..<6)) == nil)
    }
  }

  @Test("a read that waits for what is then released is told so")
  func parkedReadsWake() throws {
    let setup = try Setup()
    let disk = setup.fixture.disk
    let wakes = WakeCount()
    #expect(try disk.view(Setup.range(3..<4)) { wakes.add($0) } == nil)
    try released(disk, 0..<16)
    wakes.wait(for: 1)
    #expect(failure { _ = try disk.view(Setup.range(3..<4)) } == .notPermitted)
  }

  @Test("what falls to the base is released without it, and a base that others stand on releases nothing")
  func bases() throws {
    let setup = try Setup()
    try setup.full("monday")
    let tuesday = try setup.incremental("tuesday", on: "monday", bitmap: 2..<4)
    try setup.write(2..<4, 2, to: tuesday)
    try released(tuesday, 6..<8)
    #expect(failure { _ = try setup.view("tuesday", 6..<7) } == .notPermitted)
    #expect(try setup.view("monday", 6..<7) == Setup.content(6, 1))
    let monday = try setup.journal.generation(of: "d", named: "monday")
    #expect(failure { try released(monday, 6..<7) } == .notPermitted)
    #expect(try setup.view("monday", 6..<7) == Setup.content(6, 1))
    // The bitmap again, after a crash for example, does not bring it back.
    try tuesday.fallToBase([Setup.range(4..<16)])
    #expect(failure { _ = try setup.view("tuesday", 6..<7) } == .notPermitted)
  }

  @Test("a seal counts what was released, verify takes it as it is, and replay needs to be told")
  func seals() throws {
    let setup = try Setup()
    try sealReleased(setup)
    try setup.fixture.close()
    try setup.fixture.removeIndex()
    try setup.fixture.open()
    #expect(try setup.verify().flaws == [])
  }

  private func sealReleased(_ setup: Setup) throws {
    let disk = try setup.journal.begin("d", GenerationRequest(name: "monday"))
    try setup.write(0..<8, 1, to: disk)
    try disk.writeZeroes(Setup.range(8..<12), mayTrim: false, durable: false).wake()
    try released(disk, 12..<16)
    try released(disk, 7..<9)
    try disk.seal()
    let summary = try #require(disk.sealRecord).summary
    #expect(summary.dataBytes == 7 * Setup.block && summary.zeroBytes == 3 * Setup.block)
    #expect(summary.releasedBytes == 6 * Setup.block)
    #expect(SealRecord(try #require(disk.sealRecord).encoded)?.summary == summary)
    try setup.journal.checkpoint()
    #expect(try setup.verify().flaws == [])
    #expect(failure { _ = try setup.image("d@monday") } == .failed)
    let image = try setup.image("d@monday", tainted: true)
    #expect(Array(image[0..<Int(7 * Setup.block)]) == (0..<7).flatMap { Setup.content($0, 1) })
    #expect(image[Int(7 * Setup.block)...].allSatisfy { $0 == 0 })

    // What is sealed can be released as well; then its sums cannot be had any more.
    try released(disk, 0..<2)
    #expect(failure { _ = try setup.view("monday", 1..<2) } == .notPermitted)
    try setup.journal.checkpoint()
    let report = try setup.verify()
    #expect(report.flaws == [] && report.releasedBytes == 8 * Setup.block)
  }

  @Test("on a device disk the last write wins over a tombstone, unless tombstones are kept")
  func devices() throws {
    let fixture = try JournalFixture()
    try fixture.makeDisk("d", byteCount: 1 << 20, mode: .device)
    let disk = fixture.disk
    let sector = ByteRange(offset: 4096, count: 512)
    try disk.write([UInt8](repeating: 1, count: 8192), at: 0)
    try disk.release(sector).wake()
    #expect(failure { _ = try disk.bytes(sector) } == .notPermitted)
    #expect(failure { _ = try disk.view(sector) } == .notPermitted)
    // What nobody can read any more counts as zeroes beside a write that begins in its sector.
    try disk.write([2, 2], at: 4097)
    #expect(try disk.bytes(sector) == [0, 2, 2] + [UInt8](repeating: 0, count: 509))
    try disk.release(sector).wake()
    disk.keepTombstones()
    try disk.write([UInt8](repeating: 3, count: 8192), at: 0)
    #expect(failure { _ = try disk.bytes(sector) } == .notPermitted)
    #expect(try disk.bytes(ByteRange(offset: 0, count: 4096)) == [UInt8](repeating: 3, count: 4096))
    try disk.writeZeroes(ByteRange(offset: 0, count: 1 << 20), mayTrim: true, durable: false).wake()
    #expect(failure { _ = try disk.bytes(sector) } == .notPermitted)
    #expect(try disk.bytes(ByteRange(offset: 8192, count: 512)) == [UInt8](repeating: 0, count: 512))
  }

  @Test("block status says data of what was released")
  func status() throws {
    let setup = try Setup()
    let disk = setup.fixture.disk
    try disk.writeZeroes(Setup.range(0..<16), mayTrim: false, durable: false).wake()
    try released(disk, 4..<6)
    let runs = try disk.status(Setup.range(0..<16), asWriter: false, limit: 10)
    #expect(
      runs == [
        StatusRun(byteCount: 4 * Setup.block, isHole: true),
        StatusRun(byteCount: 2 * Setup.block, isHole: false),
        StatusRun(byteCount: 10 * Setup.block, isHole: true),
      ])
  }

  @Test("random writes, zeroes, releases, kills and closes agree with a model", arguments: 1...4)
  func history(seed: Int) throws {
    var random = SeededGenerator(seed: UInt64(seed) &* 7919)
    let setup = try Setup()
    // Of each block: not there, a version (0: zeroes), or released.
    enum State: Equatable {
      case absent, released
      case version(Int)
    }
    var model = [State](repeating: .absent, count: Int(Setup.blockCount))
    for step in 0..<120 {
      let low = UInt64.random(in: 0..<Setup.blockCount, using: &random)
      let blocks = low..<UInt64.random(in: low..<Setup.blockCount, using: &random) + 1
      switch Int.random(in: 0..<10, using: &random) {
      case 0...2:
        // The bytes of the moment, as any retry would bring them.
        try setup.write(blocks, 1, to: setup.fixture.disk)
        for block in blocks where model[Int(block)] == .absent { model[Int(block)] = .version(1) }
      case 3 where !blocks.contains { model[Int($0)] == .version(1) }:
        try setup.fixture.disk.writeZeroes(Setup.range(blocks), mayTrim: true, durable: false).wake()
        // A zeroed block is then written again by the next case as a contradiction: so zeroes are released at once.
        try released(setup.fixture.disk, blocks)
        for block in blocks { model[Int(block)] = .released }
      case 4...5:
        let one = blocks.lowerBound..<blocks.lowerBound + 1
        try released(setup.fixture.disk, one)
        model[Int(one.lowerBound)] = .released
      case 6: try setup.journal.checkpoint()
      case 7:
        setup.fixture.crash()
        try setup.fixture.open()
      case 8:
        try setup.fixture.close()
        if Bool.random(using: &random) { try setup.fixture.removeIndex() }
        try setup.fixture.open()
      default: break
      }
      for block in 0..<Setup.blockCount {
        let state = model[Int(block)]
        var found = State.absent
        do {
          if let bytes = try setup.view("live", block..<block + 1) {
            found = bytes == Setup.content(block, 1) ? .version(1) : .version(-1)
          }
          setup.fixture.disk.dropParked(owner: 0)
        } catch let error as JournalError {
          found = error.kind == .notPermitted ? .released : .version(-2)
        }
        #expect(found == state, "seed \(seed), step \(step), block \(block)")
        if found != state { return }
      }
    }
    #expect(model.contains(.released) && setup.fixture.disk.taintReason == nil)
  }
}
