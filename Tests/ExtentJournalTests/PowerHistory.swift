import ExtentJournal
import TestKit

/// A random history of one machine: several lives, each ending in a power loss, a killed process, or a disk that fails.
/// The same seed is the same history.
struct PowerHistory {
  private let seed: UInt64
  private let hasUpkeep: Bool
  private let hasSeals: Bool
  private var random: SeededGenerator
  private let machine: Machine
  /// Steps until the held reservation must go: the tail of a small ring waits for it.
  private var heldFor = 0
  /// Whether each step is printed.
  private var isTold = false
  /// What the disk had dropped when this life began.
  private var droppedBefore = 0

  /// Throws a `Violation` when a promise is broken.
  @discardableResult
  static func run(
    seed: UInt64, bug: PlantedBug? = nil, isTold: Bool = false, hasUpkeep: Bool = false,
    hasSeals: Bool = false
  ) throws -> [UpkeepReport] {
    var hooks = TestHooks()
    hooks.bug = bug
    var history = try PowerHistory(seed: seed, hooks: hooks, hasUpkeep: hasUpkeep, hasSeals: hasSeals)
    history.isTold = isTold
    for life in 0..<6 {
      try history.live("seed \(seed), life \(life)")
    }
    return history.machine.upkeep
  }

  private init(seed: UInt64, hooks: TestHooks, hasUpkeep: Bool, hasSeals: Bool) throws {
    self.seed = seed
    self.hasSeals = hasSeals
    self.hasUpkeep = hasUpkeep
    random = SeededGenerator(seed: seed)
    // A ring that is lapped within a life or two, or one that is not.
    machine = try Machine(
      seed: seed &+ 1000, spoolByteCount: seed % 4 == 0 ? 1 << 20 : 192 << 10, hooks: hooks,
      hasUpkeep: hasUpkeep)
  }

  private mutating func live(_ note: String) throws {
    droppedBefore = machine.disk.droppedSyncCount
    var fault = SimulatedFault.powerCut
    var isPlanted = false
    switch Int.random(in: 0..<10, using: &random) {
    case 0..<5: isPlanted = true
    case 5: (fault, isPlanted) = (.inputOutput, true)
    case 6: (fault, isPlanted) = (.shortWrite(errno: Bool.random(using: &random) ? 5 : 28), true)
    case 7: (fault, isPlanted) = (.noSpace, true)
    default: break
    }
    // What upkeep does is many operations.
    let most = hasUpkeep ? 150 : hasSeals ? 60 : 30
    if isPlanted { machine.disk.plant(fault, after: Int.random(in: 0..<most, using: &random)) }
    if case .shortWrite = fault {
      machine.disk.plant(fault, afterWrites: Int.random(in: 0..<4, using: &random))
    }
    tell("life: \(isPlanted ? "\(fault)" : "no fault"), segments of \(machine.host.segmentBytesMax)")
    var hasFailed = false
    for _ in 0..<Int.random(in: 1...25, using: &random) {
      let step = nextStep()
      do {
        try machine.perform(step)
        tell("\(step)")
        // A seal tidies up once it is durable, and what fails then it may not fail for; that it is there is seen later.
        let hasDropped = machine.disk.droppedSyncCount > droppedBefore && !step.isSeal
        if step.isDurability, hasFailed || hasDropped {
          throw Violation("\(note): \(step) claims durability after an error")
        }
      } catch {
        if error is Violation { throw error }
        tell("\(step): \(error)")
        // Who cannot read a segment gives up, and the journal goes on.
        if machine.disk.isPowerCut {
          hasFailed = true
        } else {
          hasFailed = try hasFailed || !step.readsSegments || machine.hasFailed
        }
        if machine.disk.isPowerCut { break }
        // Only a disk that failed may make a step fail.
        switch fault {
        case .inputOutput, .shortWrite(errno: 5): continue
        default: throw Violation("\(note): \(step) failed on a disk that works: \(error)")
        }
      }
    }
    heldFor = 0
    if hasUpkeep, !hasFailed, !machine.disk.isPowerCut, Bool.random(using: &random) {
      tell("the index is lost")
      machine.disk.clearFaults()
      try machine.rebuild(note)
    }
    // A process that dies leaves its unsynced writes behind, which the next one must not take for durable.
    if !machine.disk.isPowerCut, Bool.random(using: &random) {
      tell("the process dies")
      machine.disk.clearFaults()
      try machine.restart(note, afterFault: hasFailed)
    } else {
      tell("the power goes")
      try machine.loseAndRestorePower(note)
    }
    tell("alive again: \(machine.messages.all)")
  }

  private func tell(_ what: @autoclosure () -> String) {
    if isTold { print("  operation \(machine.disk.operationCount): \(what())") }
  }

  private mutating func nextStep() -> Step {
    if heldFor > 0 {
      heldFor -= 1
      if heldFor == 0 { return Int.random(in: 0..<4, using: &random) == 0 ? .abandonHeld : .commitHeld }
    }
    let start = Int.random(in: 0..<Machine.sectorCount, using: &random)
    let room = Machine.volumeSectorCount - start % Machine.volumeSectorCount
    let count = Int.random(in: 1...min(40, room), using: &random)
    if hasUpkeep, Int.random(in: 0..<8, using: &random) == 0 { return heldFor > 0 ? .spill : .upkeep }
    if hasSeals {
      let volume = Int.random(in: 0..<2, using: &random)
      switch Int.random(in: 0..<24, using: &random) {
      case 0..<3: return .seal(volume: volume)
      case 3: return .drop(volume: volume)
      default: break
      }
    }
    switch Int.random(in: 0..<22, using: &random) {
    case 0..<10: return .write(start: start, count: count)
    case 10..<12: return .zero(start: start, count: count)
    case 12..<14: return .trim(start: start, count: count)
    // One at a time, and not for long: the ring's tail waits for it, and a write in a full ring for the tail.
    case 14..<16:
      guard heldFor == 0 else { return .spill }
      heldFor = 3
      return .hold(start: start, count: count)
    case 16..<19: return .spill
    case 19..<21: return .flush
    default: return .checkpoint
    }
  }
}
