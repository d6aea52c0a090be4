import Bytes
import ExtentJournal
import Foundation
import TestKit
import Testing

// Goal: a seal that cannot be, or that fails in the middle, says so and leaves the disk as it was; and checkpoints keep to the
// bounds of the journal.
// Method: sources, taints, damaged frames, a full quota and a stage at which the seal is held.

@Suite struct CheckpointLimitTests {
  typealias Setup = GenerationSetup

  @Test("a disk whose rest is read from a source has none")
  func source() throws {
    let setup = try Setup(mode: .device)
    let disk = setup.fixture.disk
    try disk.attach(FakeSource([UInt8](repeating: 5, count: Int(Setup.byteCount))))
    #expect(failure { try disk.seal(as: "a") } == .usage)
    #expect(try disk.view(Setup.range(3..<4)) == [UInt8](repeating: 5, count: Int(Setup.block)))
    #expect(setup.journal.generations.count == 1)
  }

  @Test("a completed stream is sealed as well, and the next one is completed for itself")
  func completion() throws {
    let setup = try Setup(mode: .device)
    let disk = setup.fixture.disk
    try setup.write(0..<1, 1, to: disk)
    try disk.complete()
    try disk.seal(as: "a")
    #expect(!disk.isComplete)
    try setup.write(0..<1, 2, to: disk)
    try disk.complete()
    #expect(disk.isComplete)
    try disk.seal(as: "b")
    #expect(try setup.shows("a", [1]) && setup.shows("b", [2]) && setup.shows("live", [2, 0]))
  }

  @Test("while a seal sums up, lists say so, views follow the disk, and other commands wait for their turn")
  func sealing() throws {
    let log = StageLog()
    var hooks = TestHooks()
    hooks.atStage = { stage in
      guard stage == .checkpointOpened else { return }
      log.note(.checkpointOpened)
      log.wait(for: .generationSealed)
    }
    let setup = try Setup(mode: .device, hooks: hooks)
    let journal = setup.journal
    let disk = setup.fixture.disk
    try setup.write(0..<2, 1, to: disk)
    let sealer = try Background("sealer") { try disk.seal(as: "a") }
    log.wait(for: .checkpointOpened)
    let status = try journal.status().disks[0].generations
    #expect(status.map(\.state) == ["sealing", "arriving"] && status.map(\.base) == [nil, "1"])
    let second = try Background("second") { try disk.seal(as: "b") }
    try setup.write(1..<3, 2, to: disk)
    #expect(try setup.shows("live", [1, 2, 2, 0]))
    #expect(!second.hasEnded())
    log.note(.generationSealed)
    sealer.finish()
    second.finish()
    #expect(try setup.shows("a", [1, 1, 0]) && setup.shows("b", [1, 2, 2, 0]))
    #expect(try journal.status().disks[0].generations.map(\.base) == [nil, "a", "b"])
  }

  @Test(
    "a damaged frame keeps a checkpoint from being sealed, and not the disk from going on nor the next from being sealed"
  )
  func damage() throws {
    let setup = try Setup(mode: .device)
    try setup.write(0..<2, 1, to: setup.fixture.disk)
    try setup.fixture.disk.seal(as: "a")
    try setup.fixture.disk.write(Array(noise(1)[..<65536]), at: 4 * Setup.block)
    try setup.fixture.close()
    let path = try #require(setup.fixture.segmentPaths.last)
    var bytes = try Data(contentsOf: URL(fileURLWithPath: path))
    bytes[40_000] ^= 1
    try bytes.write(to: URL(fileURLWithPath: path))
    try setup.fixture.open()
    #expect(failure { try setup.fixture.disk.seal(as: "b") } == .damaged)
    #expect(setup.journal.generations.map(\.generationName) == ["a", nil], "the one that failed is hidden")
    try setup.write(4..<5, 3, to: setup.fixture.disk)
    func check() throws {
      #expect(try setup.shows("live", [1, 1, 0, 0, 3, 0]))
      #expect(try setup.shows("b", [1, 1, 0, 0, 3, 0]))
    }
    try setup.fixture.disk.seal(as: "b")
    try check()
    #expect(try setup.journal.status().disks[0].generations.map(\.base) == [nil, "a", "b"])
    setup.fixture.crash()
    try setup.fixture.open()
    try check()
    try setup.journal.checkpoint()
    // Nobody shows the damaged frame any more.
    #expect(try setup.verify().flaws == [])
  }

  /// What the journal's segments and index take on disk.
  private func ownedBytes(_ fixture: JournalFixture) throws -> UInt64 {
    let status = try fixture.journal.status()
    return status.segmentBytes + status.indexBytes
  }

  /// A MiB that does not compress, other for each number.
  private func noise(_ number: Int) -> [UInt8] {
    var bytes = Self.noise
    withUnsafeBytes(of: number) { bytes.replaceSubrange(0..<8, with: $0) }
    return bytes
  }

  private static let noise: [UInt8] = {
    var random = SeededGenerator(seed: 3)
    let words = (0..<131_072).map { _ in random.next() }
    return words.withUnsafeBytes { Array($0) }
  }()

  @Test("a quota is not passed, retention makes room for the next, and a full one is sealed all the same")
  func quota() throws {
    let quota: UInt64 = 64 << 20
    let fixture = try JournalFixture {
      $0.quota = Quota(byteCount: quota)
      $0.whenFull = .enospc
      $0.keptGenerations = 2
    }
    fixture.host.fullDiskRetryNanoseconds = 1_000_000
    try fixture.makeDisk("d", byteCount: 8 << 20, mode: .device)
    for turn in 0..<14 {
      for block in 0..<8 { try fixture.disk.write(noise(turn * 8 + block), at: UInt64(block) << 20) }
      try fixture.disk.seal(as: "c\(turn)")
      _ = try fixture.journal.upkeep()
      #expect(try ownedBytes(fixture) <= quota)
    }
    // Without retention the older ones stay, until nothing more can be taken.
    try fixture.close()
    fixture.options.keptGenerations = nil
    try fixture.open()
    var turn = 14
    var isFull = false
    while !isFull, turn < 40 {
      for block in 0..<8 where !isFull {
        isFull =
          failure { try fixture.disk.write(noise(turn * 8 + block), at: UInt64(block) << 20) } == .noSpace
      }
      try fixture.disk.seal(as: "c\(turn)")
      #expect(try ownedBytes(fixture) <= quota)
      turn += 1
    }
    #expect(isFull)
    for name in fixture.journal.generations.compactMap(\.generationName).dropLast() {
      try fixture.journal.drop(name, of: "d")
    }
    _ = try fixture.journal.upkeep()
    try fixture.disk.write(noise(1), at: 0)
    let isRight = try fixture.disk.bytes(ByteRange(start: 0, end: 4096)) == Array(noise(1)[..<4096])
    #expect(isRight)
  }

  @Test(
    "a write that is dropped for want of space taints the open one, which cannot be sealed then, and no other"
  )
  func dropped() throws {
    let fixture = try JournalFixture {
      $0.quota = Quota(byteCount: 64 << 20)
      $0.whenFull = .taint
      $0.stallBudgetNanoseconds = 0
    }
    fixture.host.fullDiskRetryNanoseconds = 1_000_000
    try fixture.makeDisk("d", byteCount: 128 << 20, mode: .device)
    try fixture.disk.write(noise(0), at: 0)
    try fixture.disk.seal(as: "a")
    var block: UInt64 = 1
    while fixture.disk.taintReason == nil, block < 128 {
      try fixture.disk.write(noise(Int(block)), at: block << 20)
      block += 1
    }
    #expect(fixture.disk.taintReason != nil)
    #expect(failure { try fixture.disk.seal(as: "b") } == .failed)
    let a = try fixture.journal.generation(of: "d", named: "a")
    #expect(a.taintReason == nil)
    let isRight = try a.bytes(ByteRange(start: 0, end: 4096)) == Array(noise(0)[..<4096])
    #expect(isRight)
  }
}
