import ExtentJournal
import TestKit
import Testing

// Goal: whatever ends a journal, and whenever, each checkpoint that was promised shows what its disk held when it was sealed, a
// write is on one side of a seal only, and the disks are a prefix of what was acknowledged.
// Method: the random histories of PowerLossTests with seals and drops as more steps, with reservations that are held over them, and
// half of them with upkeep and lost indexes; a script with the power cut at every operation of the disk, and a kill behind
// each step. Bugs that are planted must be noticed
// (others: CheckpointRaceTests and, end to end, CheckpointTests).

@Suite struct CheckpointHistoryTests {
  @Test("random histories with seals and drops of checkpoints keep every promise", arguments: 0..<8)
  func histories(share: Int) {
    let all = seeds(320)
    for seed in all where Int(seed % 8) == share {
      do {
        try PowerHistory.run(
          seed: seed, isTold: all.count == 1, hasUpkeep: seed % 16 < 8, hasSeals: true)
      } catch {
        Issue.record(
          """
          \(error)
          run it again: SPILLWAY_TEST_SEED=\(seed) swift test --disable-xctest --filter CheckpointHistoryTests/histories
          """)
      }
    }
  }

  private static let script: [Step] = [
    .write(start: 0, count: 20), .hold(start: 4, count: 8), .seal(volume: 0), .commitHeld,
    .write(start: 130, count: 10), .seal(volume: 1), .trim(start: 0, count: 6), .write(start: 16, count: 12),
    .seal(volume: 0), .zero(start: 24, count: 40), .drop(volume: 0), .write(start: 0, count: 2), .flush,
  ]

  @Test("a power cut at every operation of the disk leaves what was promised", arguments: 0..<3)
  func everyOperation(size: UInt64) throws {
    var cut = 0
    while true {
      let machine = try Machine(seed: UInt64(cut) * 3 + size, spoolByteCount: 192 << 10)
      machine.disk.plant(.powerCut, after: cut)
      do {
        for step in Self.script { try machine.perform(step) }
      } catch {
        guard machine.disk.isPowerCut else { throw error }
      }
      let wasCut = machine.disk.isPowerCut
      let note = "size \(size), cut at operation \(cut)"
      try machine.loseAndRestorePower(note)
      // The disks go on, and what was cut off takes nothing with it.
      for step in [
        .write(start: 3, count: 30), .seal(volume: 0), .write(start: 0, count: 9), .seal(volume: 0),
      ] as [Step] {
        try machine.perform(step)
      }
      try machine.rebuild("\(note), and the index lost")
      guard wasCut else { break }
      cut += 1
    }
    print("size \(size): \(cut) power cuts")
    #expect(cut > 15, "the script did almost nothing")
  }

  @Test("a kill behind each step loses nothing that was acknowledged", arguments: 0..<3)
  func kills(size: UInt64) throws {
    let machine = try Machine(seed: size, spoolByteCount: 192 << 10)
    for (index, step) in Self.script.enumerated() {
      // What is held dies with the process.
      guard step != .commitHeld else { continue }
      try machine.perform(step)
      try machine.restart("size \(size), killed after step \(index): \(step)", afterFault: false)
    }
    try machine.rebuild("size \(size), and the index lost")
  }

  @Test(
    "the histories notice a broken rule",
    arguments: [.ringNamesGeneration, .sealNotFlushed]
      as [PlantedBug])
  func bugs(bug: PlantedBug) throws {
    for seed in 1...400 as ClosedRange<UInt64> {
      do {
        try PowerHistory.run(seed: seed, bug: bug, hasSeals: true)
      } catch let violation as Violation {
        print("\(bug): noticed at seed \(seed): \(violation)")
        return
      }
    }
    Issue.record("the histories went by and none noticed \(bug)")
  }
}
