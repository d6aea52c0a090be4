import Bytes
import ExtentJournal
import TestKit
import Testing

// Goal: after a power loss a journal is a prefix of what was acknowledged, and no shorter than the last FLUSH.
// Method: segments on a simulated disk, the real LMDB, a ring that does not outlive the boot. Each operation sets
// whole sectors to its own number, so the content after recovery says which operations it is made of, and the model
// says what each prefix looks like. The power is cut between operations in random histories, and at every single
// operation of the disk in fixed scripts.

/// One thing that a client does.
private enum Step {
  case write(start: Int, count: Int)
  case zero(start: Int, count: Int)
  case trim(start: Int, count: Int)
  case spill
  case flush
  case checkpoint
}

extension Step {
  /// Whether success means that everything before is durable.
  fileprivate var isDurability: Bool {
    switch self {
    case .flush, .checkpoint: true
    default: false
    }
  }
}

private let sectorCount = 256

/// Word `index` of a sector that operation `number` wrote: the number first, then what no compressor can shorten. All
/// zeroes for 0.
private func word(_ number: UInt32, _ index: Int) -> UInt32 {
  guard index > 0, number > 0 else { return number }
  var mixed = (number &* 0x9E37_79B9) ^ (UInt32(index) &* 0x85EB_CA6B)
  mixed = (mixed ^ mixed >> 15) &* 0x2C1B_3C6D
  return mixed ^ mixed >> 12
}

/// A journal on a simulated machine, and every state that it may be in.
private final class Machine {
  let disk: SimulatedDisk
  let directory: TemporaryDirectory
  private var host = JournalHost()
  private var boots = 0
  private var journal: Journal!
  private var volume: Disk!
  /// What the disk looks like after the k-th acknowledged operation: the number of the operation, 0 for zeroes.
  private var states: [[UInt32]] = [[UInt32](repeating: 0, count: sectorCount)]
  /// The shortest prefix that is allowed.
  private var durable = 0
  private var nextNumber: UInt32 = 1

  init(seed: UInt64) throws {
    disk = SimulatedDisk(seed: seed)
    directory = try TemporaryDirectory()
    host.segments = disk
    // One batch each, a few, or all: so that histories cross segments, and unsynced batches lie in several.
    host.segmentBytesMax = [8 << 10, 24 << 10, 64 << 20][Int(seed % 3)]
    host.fullDiskRetryNanoseconds = 1_000_000
    try boot()
  }

  deinit { journal?.abandon() }

  private func boot() throws {
    boots += 1
    host.bootID =
      "00000000-0000-4000-8000-" + String(repeating: "0", count: 12 - String(boots).count) + String(boots)
    var options = JournalOptions()
    options.spoolDirectory = directory.path
    options.spoolByteCount = 16 << 20
    journal = try Journal.open(directory.file("j"), options: options, host: host, log: { _, _ in })
    volume = try journal.disk("d", byteCount: UInt64(sectorCount * 512), mode: .device)
  }

  /// Carries out `step`. Throws when the disk refuses; what was acknowledged before is in `states`.
  func perform(_ step: Step) throws {
    switch step {
    case .write(let start, let count):
      let number = nextNumber
      nextNumber += 1
      let slot = try volume.reserve(range(start, count))
      let words = slot.memory.bindMemory(to: UInt32.self)
      for index in words.indices { words[index] = word(number, index % 128) }
      // From here on it may be there after a crash, acknowledged or not.
      states.append(changed(start, count, to: number))
      try slot.commit(durable: false).wake()
    case .zero(let start, let count):
      states.append(changed(start, count, to: 0))
      try volume.writeZeroes(range(start, count), mayTrim: false, durable: false).wake()
    case .trim(let start, let count):
      states.append(changed(start, count, to: 0))
      try volume.trim(range(start, count), durable: false).wake()
    case .spill:
      try journal.spill()
    case .flush:
      try journal.flush()
      durable = states.count - 1
    case .checkpoint:
      try journal.checkpoint()
      durable = states.count - 1
    }
  }

  private func range(_ start: Int, _ count: Int) -> ByteRange {
    ByteRange(offset: UInt64(start * 512), count: UInt64(count * 512))
  }

  private func changed(_ start: Int, _ count: Int, to number: UInt32) -> [UInt32] {
    var state = states[states.count - 1]
    for sector in start..<start + count { state[sector] = number }
    return state
  }

  /// Power off (unless it is), power on, recovery; then the content must be one of the allowed states, and the
  /// history goes on from it. Returns which, counted from the end.
  @discardableResult
  func loseAndRestorePower(_ note: String) throws -> Int {
    disk.cutPower()
    journal?.abandon()
    journal = nil
    volume = nil
    disk.powerOn()
    try boot()
    let found = try content(note)
    let allowed = states[durable...]
    guard let index = allowed.lastIndex(of: found) else {
      Issue.record("\(note): the content is no prefix between \(durable) and \(states.count - 1): \(found)")
      return 0
    }
    let lost = states.count - 1 - index
    states = [found]
    durable = 0
    return lost
  }

  /// The process dies and starts again: what is in the ring is still there.
  func restart(_ note: String, afterFault: Bool) throws {
    journal.abandon()
    journal = nil
    volume = nil
    disk.powerOn()
    boots -= 1
    try boot()
    let found = try content(note)
    // With a disk that fails a synced prefix is all that can be asked for; otherwise nothing is missing.
    guard afterFault ? states[durable...].contains(found) : found == states.last else {
      Issue.record("\(note): the content is not what was acknowledged: \(found)")
      return
    }
    states.append(found)
  }

  /// Whether the content is that of the last operation.
  func isCurrent(_ note: String) throws -> Bool { try content(note) == states.last }

  /// Loses power, and loses it again after `count` operations of the recovery. Returns whether it came to that.
  func restartWithCut(after count: Int) throws -> Bool {
    disk.cutPower()
    journal.abandon()
    journal = nil
    volume = nil
    disk.powerOn()
    disk.plant(.powerCut, after: count)
    do {
      try boot()
      return disk.isPowerCut
    } catch {
      guard disk.isPowerCut else { throw error }
      return true
    }
  }

  /// The operation number of each sector.
  func content(_ note: String) throws -> [UInt32] {
    let buffer = AlignedBuffer(byteCount: sectorCount * 512)
    var target = buffer.mutableBytes
    _ = try volume.readIngest(range(0, sectorCount), into: &target)
    let words = buffer.raw.bindMemory(to: UInt32.self)
    return (0..<sectorCount).map { sector in
      let number = words[sector * 128]
      let isWhole = (0..<128).allSatisfy { words[sector * 128 + $0] == word(number, $0) }
      #expect(isWhole, "\(note): sector \(sector) is torn")
      return number
    }
  }
}

@Suite struct PowerLossTests {
  private func randomStep(_ random: inout SeededGenerator) -> Step {
    let start = Int.random(in: 0..<sectorCount, using: &random)
    let count = Int.random(in: 1...min(40, sectorCount - start), using: &random)
    switch Int.random(in: 0..<20, using: &random) {
    case 0..<10: return .write(start: start, count: min(count, sectorCount - start))
    case 10..<12: return .zero(start: start, count: count)
    case 12..<14: return .trim(start: start, count: count)
    case 14..<17: return .spill
    case 17..<19: return .flush
    default: return .checkpoint
    }
  }

  @Test(
    "random histories with power losses between and inside operations end in a prefix", arguments: seeds(60))
  func histories(seed: UInt64) throws {
    var random = SeededGenerator(seed: seed)
    let machine = try Machine(seed: seed &+ 1000)
    for life in 0..<6 {
      let steps = Int.random(in: 1...25, using: &random)
      if Bool.random(using: &random) {
        machine.disk.plant(.powerCut, after: Int.random(in: 0..<30, using: &random))
      }
      for _ in 0..<steps {
        do {
          try machine.perform(randomStep(&random))
        } catch {
          guard machine.disk.isPowerCut else { throw error }
          break
        }
      }
      // A process that dies leaves its unsynced writes behind, which the next one must not take for durable.
      if !machine.disk.isPowerCut, Bool.random(using: &random) {
        machine.disk.clearFaults()
        try machine.restart("seed \(seed), life \(life)", afterFault: false)
      } else {
        try machine.loseAndRestorePower("seed \(seed), life \(life)")
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
        .write(start: 0, count: 200), .write(start: 3, count: 1), .spill, .trim(start: 0, count: 100), .flush,
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
    .write(start: 100, count: 100), .write(start: 90, count: 20), .flush, .trim(start: 0, count: 200), .spill,
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
