import Bytes
import ExtentJournal
import TestKit
import Testing
import Threads

// Goal: a request that meets a seal is on one side of it, as a whole and with the bytes that are there then.
// Method: a writer is held between its comparison and its commit; meanwhile the disk is sealed, and the rest of the
// writer's sector is written. What the checkpoint and the disk show is compared, also after a kill, when the ring tells it.
// The planted bugs must be noticed.

@Suite struct CheckpointRaceTests {
  typealias Setup = GenerationSetup

  enum Request: CaseIterable {
    case write, writeWholeSectors, zero, trim, release
  }

  @Test(
    "a request that was compared before the seal and is committed after it belongs to the next generation",
    arguments: Request.allCases)
  func held(request: Request) throws {
    #expect(try isOnOneSide(request, bug: nil))
  }

  @Test(
    "a write on the wrong side is noticed",
    arguments: [.writtenBehindSeal, .ringNamesGeneration] as [PlantedBug]
  )
  func bugs(bug: PlantedBug) throws {
    for request in [.write, .writeWholeSectors, .trim] as [Request] {
      #expect(try !isOnOneSide(request, bug: bug), "\(request)")
    }
  }

  /// Whether the checkpoint has nothing of the request, and the disk all of it and what was written meanwhile, before and
  /// after a kill.
  private func isOnOneSide(_ request: Request, bug: PlantedBug?) throws -> Bool {
    let log = StageLog()
    let isArmed = Box(false)
    var hooks = TestHooks()
    hooks.bug = bug
    hooks.atStage = { stage in
      guard stage == .writeCompared, isArmed.value else { return }
      isArmed.value = false
      log.note(.writeCompared)
      log.wait(for: .generationSealed)
    }
    let setup = try Setup(mode: .device, hooks: hooks)
    try setup.write(0..<1, 1, to: setup.fixture.disk)
    do {
      let disk = setup.fixture.disk
      isArmed.value = true
      let writer = try Background("writer") { try Self.perform(request, on: disk) }
      log.wait(for: .writeCompared)
      try disk.seal(as: "a")
      try disk.write([9], at: 1023)
      try disk.write([9], at: 4096)
      log.note(.generationSealed)
      writer.finish()
    }
    var wanted = Setup.content(0, 1)
    let before = wanted
    wanted[1023] = 9
    wanted[4096] = 9
    switch request {
    case .write: wanted.replaceSubrange(700..<1000, with: repeatElement(7, count: 300))
    case .writeWholeSectors: wanted.replaceSubrange(512..<4096, with: repeatElement(7, count: 3584))
    case .zero, .trim: wanted.replaceSubrange(512..<4096, with: repeatElement(0, count: 3584))
    case .release: break
    }
    func isRight() throws -> Bool {
      let checkpoint = try setup.view("a", 0..<1) == before
      guard request == .release else { return try checkpoint && setup.view("live", 0..<1) == wanted }
      return checkpoint && failure({ _ = try setup.view("live", 0..<1) }) == .notPermitted
    }
    guard try isRight() else { return false }
    setup.fixture.crash()
    try setup.fixture.open()
    return try isRight()
  }

  private static func perform(_ request: Request, on disk: Disk) throws {
    let range = ByteRange(start: 512, end: 4096)
    switch request {
    case .write: try disk.write([UInt8](repeating: 7, count: 300), at: 700)
    case .writeWholeSectors: try disk.write([UInt8](repeating: 7, count: 3584), at: 512)
    case .zero: try disk.writeZeroes(range, mayTrim: false, durable: false).wake()
    case .trim: try disk.trim(range, durable: false).wake()
    case .release: try disk.release(range).wake()
    }
  }

  @Test("a reservation that nobody commits does not hold up a seal, and a full ring not for ever")
  func fullRing() throws {
    let setup = try Setup(mode: .device)
    let disk = setup.fixture.disk
    let stalled = try disk.reserve(Setup.range(0..<1))
    try disk.seal(as: "a")
    stalled.abandon()
    let isDone = Flag()
    let writers = try (0..<3 as Range<UInt64>).map { writer in
      try Background("writer-\(writer)") {
        let contents = (1...9).map { Setup.content(writer, $0) }
        var round = 0
        while !isDone.isSet {
          round += 1
          try disk.write(contents[round % 9], at: (writer * 4 + UInt64(round % 4)) * Setup.block)
        }
      }
    }
    for index in 0..<5 { try disk.seal(as: "b\(index)") }
    isDone.set()
    for writer in writers { writer.finish() }
    #expect(try setup.journal.status().disks[0].generations.count == 7)
  }
}
