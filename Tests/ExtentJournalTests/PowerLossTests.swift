import Bytes
import ExtentJournal
import TestKit
import Testing

// Goal: after a power loss a journal, all its disks together, is a prefix of what was acknowledged, and no shorter than
// the last FLUSH.
// Method: segments on a simulated disk, and a model that says what each prefix looks like (Machine.swift). The power is
// cut between and inside operations in random histories, and at every single operation of the disk in fixed scripts.
// ExhaustiveCrashTests does all short scripts; MediaFaultTests has disks that lie; PlantedBugTests show what all of
// these are worth.

@Suite struct PowerLossTests {
  // A test case for each seed would cost more than most histories: a case takes every sixteenth.
  @Test(
    "random histories with power losses, kills and failing disks end in a prefix", arguments: 0..<16)
  func histories(share: Int) {
    let all = seeds(3000)
    for seed in all where Int(seed % 16) == share {
      if case .failure(let error) = Result(catching: {
        try PowerHistory.run(seed: seed, isTold: all.count == 1)
      }) {
        Issue.record(
          """
          \(error)
          run it again: SPILLWAY_TEST_SEED=\(seed) swift test --disable-xctest --filter PowerLossTests/histories
          """)
      }
    }
  }

  @Test("a power cut at every single disk operation of a script ends in a prefix", arguments: 0..<6)
  func everyOperation(script: Int) throws {
    let scripts: [[Step]] = [
      [.write(start: 0, count: 8), .flush, .write(start: 4, count: 8), .flush],
      [
        .write(start: 0, count: 64), .spill, .zero(start: 8, count: 8), .spill, .write(start: 8, count: 2),
        .flush,
      ],
      [.write(start: 0, count: 8), .checkpoint, .trim(start: 0, count: 8), .checkpoint],
      [
        .write(start: 0, count: 100), .write(start: 3, count: 1), .spill, .trim(start: 0, count: 100), .flush,
      ],
      [
        .spill, .write(start: 1, count: 1), .spill, .write(start: 1, count: 1), .spill,
        .write(start: 1, count: 1), .flush,
      ],
      [.write(start: 10, count: 10), .flush, .write(start: 10, count: 10), .spill, .checkpoint],
    ]
    var cut = 0
    while true {
      let machine = try Machine(seed: UInt64(cut * 7 + script))
      machine.disk.plant(.powerCut, after: cut)
      do {
        for step in scripts[script] { try machine.perform(step) }
      } catch {
        guard machine.disk.isPowerCut else { throw error }
      }
      let wasCut = machine.disk.isPowerCut
      try machine.loseAndRestorePower("script \(script), cut at operation \(cut)")
      // Twice, for the recovery's own writes.
      try machine.perform(.write(start: 0, count: 1))
      try machine.perform(.flush)
      let lost = try machine.loseAndRestorePower("script \(script), cut at \(cut), again")
      #expect(lost == 0)
      guard wasCut else { break }
      cut += 1
    }
    #expect(cut > 2, "the script did almost nothing")
  }

  private let faultScript: [Step] = [
    .write(start: 0, count: 64), .spill, .write(start: 8, count: 2), .flush, .zero(start: 0, count: 4),
    .checkpoint,
    .write(start: 150, count: 100), .write(start: 90, count: 20), .flush, .trim(start: 0, count: 100), .spill,
  ]

  @Test(
    "an I/O error at any operation stops writing with the first error, and loses nothing that was durable")
  func inputOutputErrors() throws {
    var failures = 0
    for place in 0..<40 {
      let machine = try Machine(seed: UInt64(place))
      machine.disk.plant(.inputOutput, after: place)
      var hasFailed = false
      for step in faultScript {
        do {
          try machine.perform(step)
          #expect(
            !hasFailed || !step.isDurability, "operation \(place): a flush after an error claims durability")
        } catch {
          hasFailed = true
        }
      }
      guard hasFailed else { continue }
      failures += 1
      try machine.restart("I/O error at operation \(place)", afterFault: true)
    }
    #expect(failures > 5, "the faults did not happen")
  }

  // What a failed sync dropped is still in the page cache, so the next process finds it whole; a sync of it would have
  // nothing to do (Linux tells of a lost page once).
  @Test("a flush after a failed sync and a restart promises only what the disk has")
  func droppedPages() throws {
    let machine = try Machine(seed: 2)
    try machine.perform(.write(start: 0, count: 8))
    try machine.perform(.spill)
    machine.disk.plant(.inputOutput, after: 0)
    #expect(throws: JournalError.self) { try machine.perform(.flush) }
    #expect(machine.disk.droppedSyncCount == 1)
    try machine.restart("after the failed sync", afterFault: true)
    try machine.perform(.flush)
    machine.disk.cutPower()
    machine.die()
    try Machine(after: machine, with: SimulatedDisk(machine.disk.snapshot) { _ in true })
      .settle("power loss after the restart")
  }

  @Test("a full disk at any operation delays, fails nothing and loses nothing")
  func fullDisk() throws {
    for place in 0..<30 {
      let machine = try Machine(seed: UInt64(place))
      for later in 0..<3 { machine.disk.plant(.noSpace, after: place + later) }
      for step in faultScript { try machine.perform(step) }
      #expect(try machine.isCurrent("full at operation \(place)"))
      try machine.restart("full at operation \(place)", afterFault: false)
    }
  }

  @Test("a segment that a full disk left without a group does not hide the next one from recovery")
  func emptySegment() throws {
    // The batch is larger than a segment, so that the second attempt makes a segment of its own.
    let machine = try Machine(seed: 0)
    machine.disk.plant(.shortWrite(errno: 28), afterWrites: 1)
    for sector in 0..<32 { try machine.perform(.write(start: sector, count: 1)) }
    try machine.perform(.flush)
    machine.disk.cutPower()
    machine.die()
    let disk = SimulatedDisk(machine.disk.snapshot) { _ in false }
    try Machine(after: machine, with: disk).settle("nothing unsynced survives")
  }

  @Test("a power cut at every operation of a recovery is survived by the next one")
  func duringRecovery() throws {
    var cut = 0
    while true {
      let machine = try Machine(seed: UInt64(cut))
      for round in 0..<3 {
        try machine.perform(.write(start: round * 10, count: 20))
        try machine.perform(round == 1 ? .flush : .spill)
      }
      let wasCut = try machine.restartWithCut(after: cut)
      try machine.loseAndRestorePower("cut at operation \(cut) of the recovery")
      guard wasCut else { break }
      cut += 1
    }
    #expect(cut > 3)
  }
}
