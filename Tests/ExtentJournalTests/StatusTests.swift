import Bytes
import ExtentJournal
import TestKit
import Testing

// Goal: block status says of every sector what a view knows of it, what a generation changed, and of huge empty disks says
// it in few look-ups. Method: small disks whose blocks are known; a 16 TiB one with a few islands.

@Suite struct StatusTests {
  private typealias Setup = GenerationSetup

  /// The values of the blocks, one each.
  private func blocks<Value>(_ runs: [(byteCount: UInt64, value: Value)]) -> [Value] {
    runs.flatMap { Array(repeating: $0.value, count: Int($0.byteCount / Setup.block)) }
  }

  @Test(
    "an incremental generation: its own data and zeroes, its base's blocks, and what it waits for",
    arguments: [false, true])
  func states(spilled: Bool) throws {
    let setup = try Setup()
    try setup.full("monday")
    let tuesday = try setup.incremental("tuesday", on: "monday", bitmap: 2..<6)
    try setup.write(2..<3, 2, to: tuesday)
    try tuesday.writeZeroes(Setup.range(3..<4), mayTrim: false, durable: false).wake()
    if spilled { try setup.journal.checkpoint() }
    let all = Setup.range(0..<Setup.blockCount)
    let states = try blocks(tuesday.states(all, limit: 40))
    #expect(
      states == [.fromBase, .fromBase, .data, .zero, .awaited, .awaited]
        + Array(repeating: SectorState.fromBase, count: 10))
    let changes = try blocks(tuesday.changes(all, limit: 40))
    #expect(changes.enumerated().filter(\.element).map(\.offset) == [2, 3])
    #expect(
      try tuesday.states(all, limit: 2).map(\.byteCount) == [2 * Setup.block, Setup.block], "as many as asked"
    )
    let monday = try setup.journal.generation(of: "d", named: "monday")
    #expect(try monday.changes(all, limit: 9).map(\.value) == [true], "a full generation changed everything")
    #expect(try monday.states(all, limit: 9).map(\.value) == [.data, .zero])
  }

  @Test("what is absent is the source's while there is one, and zeroes once it is known that it never comes")
  func absent() throws {
    let fixture = try JournalFixture { $0.unarrived = .wait }
    try fixture.makeDisk("d", byteCount: 1 << 20, mode: .device)
    let all = ByteRange(offset: 0, count: 1 << 20)
    #expect(try fixture.disk.states(all, limit: 9).map(\.value) == [.awaited])
    try fixture.disk.complete()
    #expect(try fixture.disk.states(all, limit: 9).map(\.value) == [.zero])
  }

  @Test("zeroes that are to stay provisioned are no hole to writers, and one to readers")
  func provisioned() throws {
    let fixture = try JournalFixture()
    try fixture.makeDisk("d", byteCount: 3 << 16, mode: .device)
    let disk = fixture.disk
    try disk.writeZeroes(ByteRange(offset: 0, count: 1 << 16), mayTrim: false, durable: false).wake()
    try disk.writeZeroes(ByteRange(offset: 1 << 16, count: 1 << 16), mayTrim: true, durable: false).wake()
    for life in ["ring", "index"] {
      let runs = try disk.status(ByteRange(offset: 0, count: 3 << 16), asWriter: true, limit: 9)
      #expect(
        runs == [
          StatusRun(byteCount: 1 << 16, isHole: false, isZero: true),
          StatusRun(byteCount: 2 << 16, isHole: true),
        ], "\(life)")
      #expect(
        try disk.status(ByteRange(offset: 0, count: 2 << 16), asWriter: false, limit: 9)
          == [StatusRun(byteCount: 2 << 16, isHole: true)], "\(life)")
      try fixture.journal.checkpoint()
    }
  }

  @Test("16 TiB with a few islands is told in full, whether they are in memory or in the index")
  func sparse() throws {
    let size: UInt64 = 16 << 40
    let fixture = try JournalFixture()
    try fixture.makeDisk("d", byteCount: size, mode: .device)
    let disk = fixture.disk
    let seed = UInt64.random(in: 0...UInt64.max)
    print("seed \(seed)")
    var random = SeededGenerator(seed: seed)
    let islands = Set((0..<40).map { _ in UInt64.random(in: 0..<size >> 16, using: &random) << 16 }).sorted()
    for (index, start) in islands.enumerated() {
      try disk.write([UInt8](repeating: 1, count: 1 << 16), at: start)
      if index == 20 { try fixture.journal.checkpoint() }
    }
    var expected: [StatusRun] = []
    var position: UInt64 = 0
    func add(_ count: UInt64, _ isHole: Bool) {
      if count == 0 { return }
      if let last = expected.last, last.isHole == isHole {
        expected[expected.count - 1].byteCount += count
      } else {
        expected.append(StatusRun(byteCount: count, isHole: isHole))
      }
    }
    for start in islands {
      add(start - position, true)
      add(1 << 16, false)
      position = start + (1 << 16)
    }
    add(size - position, true)
    for life in ["memory and index", "index"] {
      let runs = try disk.status(ByteRange(offset: 0, count: size), asWriter: true, limit: 1000)
      #expect(runs == expected, "\(life), seed \(seed)")
      try fixture.journal.checkpoint()
    }
    #expect(try disk.status(ByteRange(offset: 0, count: size), asWriter: true, limit: 1) == [expected[0]])
  }

  @Test("a range that is cached reads the same afterwards, and a disk without data is cached at once")
  func warm() throws {
    let fixture = try JournalFixture()
    try fixture.makeDisk("d", byteCount: 16 << 40, mode: .device)
    let disk = fixture.disk
    let data = (0..<1 << 20).map { UInt8(truncatingIfNeeded: $0 / 3 | 1) }
    try disk.write(data, at: 5 << 20)
    try fixture.journal.checkpoint()
    disk.warm(ByteRange(offset: 0, count: 16 << 40))
    #expect(try disk.bytes(ByteRange(offset: 5 << 20, count: 1 << 20)) == data)
  }
}
