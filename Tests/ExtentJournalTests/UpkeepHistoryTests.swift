import ExtentJournal
import TestKit
import Testing

// Goal: whatever upkeep frees and moves, a journal is after a power loss, a kill, a failing disk or the loss of its index what it
// would be without upkeep.
// Method: the random histories of PowerLossTests with upkeep as one more step, in segments so small that some die, some are
// punched and some are compacted, and with the index built again from the segments now and then; a script of overwrites with
// the power cut at every operation, and with a rebuild behind each step. The planted bugs of upkeep must be noticed.

@Suite struct UpkeepHistoryTests {
  @Test("random histories with upkeep end in a prefix, and a rebuild finds the same", arguments: 0..<8)
  func histories(share: Int) {
    let all = seeds(400)
    var done = UpkeepReport()
    for seed in all where Int(seed % 8) == share {
      do {
        for report in try PowerHistory.run(seed: seed, isTold: all.count == 1, hasUpkeep: true) {
          done.unlinkedSegments += report.unlinkedSegments
          done.punchedRuns += report.punchedRuns
          done.movedFrames += report.movedFrames
          done.reencodedFrames += report.reencodedFrames
          done.movedRecords += report.movedRecords
        }
      } catch {
        Issue.record(
          """
          \(error)
          run it again: SPILLWAY_TEST_SEED=\(seed) swift test --disable-xctest --filter UpkeepHistoryTests/histories
          """)
      }
    }
    print("share \(share): \(done)")
    if all.count >= 400 {
      #expect(done.unlinkedSegments > 0 && done.punchedRuns > 0 && done.movedRecords > 0)
      #expect(done.movedFrames > 0 && done.reencodedFrames > 0)
    }
  }

  /// Overwrites that leave segments dead in part, zeroes and trims that must outlive their segments, over and over.
  private static let script: [Step] = {
    var steps: [Step] = []
    for round in 0..<3 {
      steps += [
        .write(start: 0, count: 60), .spill, .write(start: 128, count: 40), .spill,
        .trim(start: 20, count: 20),
        .zero(start: 64, count: 9), .spill, .write(start: 70, count: 50), .checkpoint,
        .write(start: 2, count: 30), .spill, .write(start: 140, count: 8), .trim(start: 100, count: 28),
        .upkeep,
        .write(start: 60 + round, count: 3), .spill, .trim(start: 0, count: 16), .checkpoint, .upkeep,
      ]
    }
    return steps
  }()

  @Test("after each step a rebuild of the index finds what there was", arguments: 0..<3)
  func rebuilds(size: UInt64) throws {
    let machine = try Machine(seed: size, hasUpkeep: true)
    for (index, step) in Self.script.enumerated() {
      try machine.perform(step)
      try machine.rebuild("size \(size), step \(index): \(step)")
    }
    #expect(machine.upkeep.contains { $0.unlinkedSegments > 0 })
  }

  @Test("a power cut at every operation of a script with upkeep ends in a prefix", arguments: 0..<3)
  func everyOperation(size: UInt64) throws {
    var cut = 0
    while true {
      let machine = try Machine(seed: UInt64(cut) * 3 + size, hasUpkeep: true)
      machine.disk.plant(.powerCut, after: cut)
      do {
        for step in Self.script.prefix(36) { try machine.perform(step) }
      } catch {
        guard machine.disk.isPowerCut else { throw error }
      }
      let wasCut = machine.disk.isPowerCut
      let note = "size \(size), cut at operation \(cut)"
      try machine.loseAndRestorePower(note)
      try machine.rebuild("\(note), and the index lost")
      try machine.perform(.write(start: 0, count: 1))
      try machine.perform(.upkeep)
      try machine.rebuild("\(note), upkeep, and the index lost")
      guard wasCut else { break }
      cut += 3
    }
    #expect(cut > 100, "the script did almost nothing")
  }

  @Test(
    "what an error or a kill has left in the cache alone is not built upon by the next process",
    arguments: 0..<4)
  func leftInCache(share: Int) {
    for seed in seeds(400) where Int(seed % 4) == share {
      do { try Self.leaveInCache(seed) } catch {
        Issue.record(
          """
          \(error)
          run it again: SPILLWAY_TEST_SEED=\(seed) swift test --disable-xctest --filter UpkeepHistoryTests/leftInCache
          """)
      }
    }
  }

  /// Upkeep fails somewhere, or the process dies behind it; upkeep of the next process may build upon what that left; then power and
  /// index are lost.
  private static func leaveInCache(_ seed: UInt64) throws {
    let machine = try Machine(seed: seed, hasUpkeep: true)
    var random = SeededGenerator(seed: seed)
    let first = Int.random(in: 0..<18, using: &random)
    for step in script[first..<first + Int.random(in: 8..<30, using: &random)] { try machine.perform(step) }
    machine.disk.plant(.inputOutput, after: Int.random(in: 0..<120, using: &random))
    var hasFailed = false
    do { try machine.perform(.upkeep) } catch { hasFailed = true }
    machine.disk.clearFaults()
    try machine.restart("seed \(seed), started again", afterFault: hasFailed)
    try machine.perform(.upkeep)
    try machine.loseAndRestorePower("seed \(seed), power and index lost", andIndex: true)
  }

  @Test(
    "the histories notice a broken rule of upkeep",
    arguments: [.freedBeforeIndex, .recordsForgotten] as [PlantedBug])
  func bugs(bug: PlantedBug) throws {
    for seed in 1...400 as ClosedRange<UInt64> {
      do {
        try PowerHistory.run(seed: seed, bug: bug, hasUpkeep: true)
      } catch let violation as Violation {
        print("\(bug): noticed at seed \(seed): \(violation)")
        return
      }
    }
    Issue.record("the histories went by and none noticed \(bug)")
  }
}
