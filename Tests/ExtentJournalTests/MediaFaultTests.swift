import ExtentJournal
import TestKit
import Testing

// Goal: a disk that lies is found out. After a write that was lost or went elsewhere, and after a bit that flipped, each
// read gives right bytes or an error that names the place; never wrong bytes, and never silence about what is gone.
// Method: a random history with one such mishap, ended by two flushes with a write between, so that a commit record
// says of everything before the last group that it was durable. Then it is read live, and after a kill or a power loss.
//
// One limit: of the last group no other byte says that it was durable, so that what is gone of it looks like what a crash
// tore off and is cut. The cut is logged, and what is left is still a prefix. (An idle second after a FLUSH the group is no
// longer the last.)

@Suite struct MediaFaultTests {
  private enum Mishap: CaseIterable { case lostWrite, misdirectedWrite, rot }

  @Test(
    "a read gives right bytes or an error, after lost and misdirected writes and flipped bits",
    arguments: 0..<8)
  func histories(share: Int) {
    for seed in seeds(1000) where Int(seed % 8) == share {
      if case .failure(let error) = Result(catching: { try run(seed) }) {
        Issue.record(
          """
          \(error)
          run it again: SPILLWAY_TEST_SEED=\(seed) swift test --disable-xctest --filter MediaFaultTests
          """)
      }
    }
  }

  // Without its salt nothing in a segment can be verified, and a segment without superblock is what a crash leaves that
  // came before the first sync.
  @Test("a superblock that was lost with flushed groups behind it is damage, not a crash")
  func lostSuperblock() throws {
    let machine = try Machine(seed: 2)
    try machine.restart("for a new segment", afterFault: false)
    machine.disk.plant(.lostWrite, afterWrites: 0)
    for start in [0, 8] {
      try machine.perform(.write(start: start, count: 8))
      try machine.perform(.flush)
    }
    #expect(machine.disk.wasSuperblockHit)
    let violation = #expect(throws: Violation.self) {
      try machine.loseAndRestorePower("a superblock was lost")
    }
    #expect(violation?.isReportedDamage == true, "\(violation?.description ?? "")")
  }

  private func run(_ seed: UInt64) throws {
    var random = SeededGenerator(seed: seed &* 31)
    let machine = try Machine(seed: seed)
    let mishap = Mishap.allCases.randomElement(using: &random) ?? .rot
    let when = Int.random(in: 0..<8, using: &random)
    switch mishap {
    case .lostWrite: machine.disk.plant(.lostWrite, afterWrites: when)
    case .misdirectedWrite: machine.disk.plant(.misdirectedWrite, afterWrites: when)
    case .rot: break
    }
    for step in 0..<Int.random(in: 4...20, using: &random) {
      try machine.perform(randomStep(&random))
      if mishap == .rot, step == when { _ = machine.disk.rot() }
    }
    try machine.perform(.flush)
    machine.disk.clearFaults()
    let boundary = machine.states.count - 1
    try machine.perform(.write(start: Machine.sectorCount - 1, count: 1))
    try machine.perform(.flush)
    if mishap == .rot, machine.disk.mishaps.isEmpty { _ = machine.disk.rot() }

    let note = "seed \(seed), \(machine.disk.mishaps)"
    let live = try machine.readableContent(note + ", live")
    guard agrees(live, machine.states[machine.states.count - 1]) else {
      throw Violation("\(note): a live read gives wrong bytes")
    }
    let powerLoss = Bool.random(using: &random)
    do {
      try machine.reboot(powerLoss: powerLoss)
    } catch let violation as Violation {
      // Refused by name: right, if not generous.
      guard violation.isReportedDamage else { throw violation }
      return
    }
    let found = try machine.readableContent(note)
    let last = machine.states.count - 1
    if agrees(found, machine.states[last]) { return }
    guard machine.messages.all.contains(where: { $0.contains("cut an unfinished batch") }) else {
      throw Violation(
        "\(note), \(powerLoss ? "power loss" : "kill"): wrong bytes, or silence about lost ones")
    }
    guard machine.states[boundary...].contains(where: { agrees(found, $0) }) else {
      throw Violation("\(note), \(powerLoss ? "power loss" : "kill"): cut more than the last group")
    }
  }

  /// Whether everything that could be read is what `state` says.
  private func agrees(_ found: [UInt32?], _ state: [UInt32]) -> Bool {
    zip(found, state).allSatisfy { $0 == nil || $0 == $1 }
  }

  private func randomStep(_ random: inout SeededGenerator) -> Step {
    let start = Int.random(in: 0..<Machine.sectorCount, using: &random)
    let room = Machine.volumeSectorCount - start % Machine.volumeSectorCount
    let count = Int.random(in: 1...min(40, room), using: &random)
    switch Int.random(in: 0..<20, using: &random) {
    case 0..<9: return .write(start: start, count: count)
    case 9..<11: return .zero(start: start, count: count)
    case 11..<13: return .trim(start: start, count: count)
    case 13..<16: return .spill
    case 16..<19: return .flush
    default: return .checkpoint
    }
  }
}
