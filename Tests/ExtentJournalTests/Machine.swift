import Bytes
import ExtentJournal
import Foundation
import TestKit
import Threads

// A journal on a simulated machine, and every state that it may be in.
//
// Two disks share the journal and its sequence. Sectors are counted through both, so that a state is one array, and a
// prefix of the journal is a prefix of both disks at once. Each operation sets whole sectors to its own number; a state
// says for each sector which operation's bytes it holds. Segments are on a simulated disk; the index is a real LMDB and
// the ring a real file, in shared memory, which a boot makes void.

final class Machine {
  static let volumeSectorCount = 128
  static let sectorCount = 2 * volumeSectorCount
  /// A segment for each batch, for a few, or for all: histories cross segments, and unsynced batches lie in several.
  static let segmentSizes: [UInt64] = [8 << 10, 24 << 10, 64 << 20]

  /// With upkeep they have room for a few frames, some of which die.
  static let upkeepSegmentSizes: [UInt64] = [24 << 10, 48 << 10, 96 << 10]

  /// What upkeep has done in all lives.
  private(set) var upkeep: [UpkeepReport] = []
  private(set) var disk: SimulatedDisk
  let directory: TemporaryDirectory
  private(set) var host = JournalHost()
  private var spoolByteCount: UInt64
  private var boots = 0
  private(set) var journal: Journal?
  private var volumes: [Disk] = []
  private var held: (slot: WriteSlot, start: Int, count: Int, number: UInt32)?
  private(set) var messages = JournalFixture.Messages()
  /// What the disks look like after the k-th operation: the number of the operation, 0 for zeroes.
  private(set) var states: [[UInt32]] = [[UInt32](repeating: 0, count: sectorCount)]
  /// The shortest prefix that is allowed.
  private(set) var durable = 0
  private var nextNumber: UInt32 = 1
  private var checkpoints: [Checkpoint] = []
  private var checkpointCount = 0
  private var contents: [UInt32: [UInt8]] = [0: [UInt8](repeating: 0, count: 512)]
  private let buffer = AlignedBuffer(byteCount: volumeSectorCount * 512)

  /// Boots. The seed settles what the power leaves, and the size of segments.
  init(
    seed: UInt64, spoolByteCount: UInt64 = 1 << 20, hooks: TestHooks = TestHooks(), hasUpkeep: Bool = false
  ) throws {
    disk = SimulatedDisk(seed: seed)
    directory = try TemporaryDirectory(in: "/dev/shm")
    self.spoolByteCount = spoolByteCount
    host.segments = disk
    host.hooks = hooks
    host.spoolBytesMin = spoolByteCount
    host.segmentBytesMax = Self.segmentSizes[Int(seed % 3)]
    host.fullDiskRetryNanoseconds = 1_000_000
    host.upkeepEveryNanoseconds = nil
    if hasUpkeep {
      host.segmentBytesMax = Self.upkeepSegmentSizes[Int(seed % 3)]
      host.upkeepLimits.punchedBytesMin = 4 << 10
      host.upkeepLimits.retiredBytesMin = 20 << 10
      host.upkeepLimits.compactedBytesMin = 0
      host.upkeepLimits.overheadBytes = 16 << 10
      host.upkeepLimits.slackBytes = 0
      host.upkeepLimits.sealedBytesMin = 12 << 10
    }
    try boot()
  }

  /// A machine that wakes up after `other` lost its power: `disk` is what came back of its disk, the rest is copied.
  init(after other: Machine, with disk: SimulatedDisk) throws {
    self.disk = disk
    directory = try TemporaryDirectory(in: "/dev/shm")
    host = other.host
    host.segments = disk
    spoolByteCount = other.spoolByteCount
    boots = other.boots
    (states, durable, contents) = (other.states, other.durable, other.contents)
    nextNumber = other.nextNumber
    (checkpoints, checkpointCount) = (other.checkpoints, other.checkpointCount)
    let files = FileManager.default
    for folder in ["j", "j/index", "j/segments"] {
      try files.createDirectory(atPath: directory.file(folder), withIntermediateDirectories: false)
    }
    for file in ["j/journal", "j/index/data.mdb"] where files.fileExists(atPath: other.directory.file(file)) {
      try files.copyItem(atPath: other.directory.file(file), toPath: directory.file(file))
    }
    try boot()
  }

  deinit {
    held = nil
    journal?.abandon()
  }

  /// A sealed moment of one disk.
  private struct Checkpoint {
    var name: String
    var volume: Int
    var content: ArraySlice<UInt32>
    /// Whether it may be there and may not: what was asked for was not answered.
    var isDoubtful = true
  }

  // MARK: - Life and death

  private func boot() throws {
    boots += 1
    let digits = String(boots)
    host.bootID = "00000000-0000-4000-8000-" + String(repeating: "0", count: 12 - digits.count) + digits
    var options = JournalOptions()
    options.spoolDirectory = directory.path
    options.spoolByteCount = spoolByteCount
    let messages = JournalFixture.Messages()
    self.messages = messages
    do {
      let opened = try Journal.open(directory.file("j"), options: options, host: host) {
        messages.add("\($0): \($1)")
      }
      journal = opened
      volumes = try ["a", "b"].map {
        try opened.disk($0, byteCount: UInt64(Self.volumeSectorCount * 512), mode: .device)
      }
    } catch {
      guard disk.isPowerCut else { throw Violation("the journal does not open: \(error)", error) }
      throw error
    }
  }

  /// The process is gone, as after SIGKILL.
  func die() {
    held = nil
    volumes = []
    journal?.abandon()
    journal = nil
  }

  /// Power off (unless it is), power on, recovery, from the segments alone if the index is lost, too; then the content must be one
  /// of the allowed states, and the history goes on from it. Returns how many operations were lost.
  @discardableResult
  func loseAndRestorePower(_ note: String, andIndex: Bool = false) throws -> Int {
    disk.cutPower()
    die()
    disk.powerOn()
    if andIndex { removeIndex() }
    try boot()
    return try settle(note)
  }

  /// The content must be an allowed state; it is the only one from here on. Returns how many operations were lost.
  @discardableResult
  func settle(_ note: String) throws -> Int {
    let found = try content(note)
    guard let index = states[durable...].lastIndex(of: found) else {
      var violation = Violation(
        "\(note): the content is no prefix between \(durable) and \(states.count - 1): \(describe(found))")
      violation.isShortPrefix = states.contains(found)
      throw violation
    }
    let lost = states.count - 1 - index
    states = [found]
    durable = 0
    try compareCheckpoints(note)
    return lost
  }

  /// The process dies and starts again, with a power loss between or without; nothing is checked.
  func reboot(powerLoss: Bool) throws {
    if powerLoss { disk.cutPower() }
    die()
    disk.powerOn()
    if !powerLoss { boots -= 1 }
    try boot()
  }

  /// The process dies and starts again: what is in the ring is still there.
  func restart(_ note: String, afterFault: Bool) throws {
    die()
    disk.powerOn()
    boots -= 1
    try boot()
    let found = try content(note)
    // With a disk that fails a synced prefix is all that can be asked for; otherwise nothing is missing.
    guard afterFault ? states[durable...].contains(found) : found == states.last else {
      throw Violation("\(note): the content is not what was acknowledged: \(describe(found))")
    }
    states.append(found)
    try compareCheckpoints(note)
  }

  /// The process dies and starts again without the index, which it builds from the segments: what it finds must be what
  /// there was.
  func rebuild(_ note: String) throws {
    die()
    disk.powerOn()
    boots -= 1
    removeIndex()
    try boot()
    let found = try content(note)
    guard found == states.last else {
      throw Violation("\(note): a rebuild of the index finds something else: \(describe(found))")
    }
    guard let journal else { preconditionFailure("the machine is off") }
    let status = try journal.status()
    if let damage = status.damage?.first {
      throw Violation("\(note): a rebuild of the index reports damage: \(damage.message)")
    }
    states.append(found)
    try compareCheckpoints(note)
  }

  private func removeIndex() {
    for name in ["data.mdb", "lock.mdb"] {
      try? FileManager.default.removeItem(atPath: directory.file("j/index/\(name)"))
    }
  }

  /// Loses power, and loses it again after `count` operations of the recovery. Returns whether it came to that.
  func restartWithCut(after count: Int) throws -> Bool {
    disk.cutPower()
    die()
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

  // MARK: - Work

  /// Carries out `step`. Throws when the disk refuses; what was acknowledged before is in `states`.
  func perform(_ step: Step) throws {
    guard let journal else { preconditionFailure("the machine is off") }
    switch step {
    case .write(let start, let count):
      let (slot, number) = try fill(start, count)
      // From here on it may be there after a crash, acknowledged or not.
      states.append(changed(start, count, to: number))
      try slot.commit(durable: false).wake()
    case .hold(let start, let count):
      guard held == nil else { return }
      let (slot, number) = try fill(start, count)
      held = (slot, start, count, number)
    case .commitHeld:
      guard let (slot, start, count, number) = held else { return }
      held = nil
      states.append(changed(start, count, to: number))
      try slot.commit(durable: false).wake()
    case .abandonHeld:
      held?.slot.abandon()
      held = nil
    case .zero(let start, let count):
      states.append(changed(start, count, to: 0))
      let (volume, range) = place(start, count)
      try volume.writeZeroes(range, mayTrim: false, durable: false).wake()
    case .trim(let start, let count):
      states.append(changed(start, count, to: 0))
      let (volume, range) = place(start, count)
      try volume.trim(range, durable: false).wake()
    case .spill:
      try journal.spill()
    case .flush:
      try journal.flush()
      durable = states.count - 1
    case .checkpoint:
      try journal.checkpoint()
      durable = states.count - 1
      if let flaw = try journal.livenessFlaw() { throw Violation("after a checkpoint \(flaw)") }
    case .seal(let volume):
      checkpointCount += 1
      let range = volume * Self.volumeSectorCount..<(volume + 1) * Self.volumeSectorCount
      let index = checkpoints.count
      checkpoints.append(
        Checkpoint(name: "c\(checkpointCount)", volume: volume, content: states[states.count - 1][range]))
      try volumes[volume].seal(as: checkpoints[index].name)
      checkpoints[index].isDoubtful = false
      durable = states.count - 1
      try compareCheckpoints("after a seal", mayFail: true)
    case .drop(let volume):
      // The newest stays: the disk stands on it.
      let own = checkpoints.indices.filter { checkpoints[$0].volume == volume }
      guard own.count > 1, let index = own.first else { return try journal.flush() }
      let wasDoubtful = checkpoints[index].isDoubtful
      checkpoints[index].isDoubtful = true
      do throws(JournalError) {
        try journal.drop(checkpoints[index].name, of: volumes[volume].name)
      } catch {
        // It never came to be, and so nothing was done.
        guard wasDoubtful, error.kind == .usage else { throw error }
        try journal.flush()
      }
      checkpoints.remove(at: index)
      try compareCheckpoints("after a drop", mayFail: true)
    case .upkeep:
      switch Result(catching: { () throws(JournalError) in try journal.upkeep() }) {
      case .success(let report):
        upkeep.append(report)
        if let flaw = try journal.livenessFlaw() { throw Violation("after upkeep \(flaw)") }
        durable = states.count - 1
      case .failure(let error):
        guard error.kind == .noSpace else { throw error }
      }
    }
  }

  private func fill(_ start: Int, _ count: Int) throws -> (WriteSlot, UInt32) {
    let number = nextNumber
    nextNumber += 1
    let (volume, range) = place(start, count)
    let slot = try volume.reserve(range)
    let sector = pattern(number)
    for index in 0..<count {
      UnsafeMutableRawBufferPointer(rebasing: slot.memory[index * 512..<(index + 1) * 512]).copyBytes(
        from: sector)
    }
    return (slot, number)
  }

  private func place(_ start: Int, _ count: Int) -> (Disk, ByteRange) {
    let volume = start / Self.volumeSectorCount
    let first = start % Self.volumeSectorCount
    precondition(first + count <= Self.volumeSectorCount, "a step across both disks")
    return (volumes[volume], ByteRange(offset: UInt64(first * 512), count: UInt64(count * 512)))
  }

  private func changed(_ start: Int, _ count: Int, to number: UInt32) -> [UInt32] {
    var state = states[states.count - 1]
    for sector in start..<start + count { state[sector] = number }
    return state
  }

  /// What a sector that operation `number` wrote holds: the number first, then what no compressor can shorten.
  private func pattern(_ number: UInt32) -> [UInt8] {
    if let known = contents[number] { return known }
    var random = SeededGenerator(seed: UInt64(number))
    var words = (0..<64).map { _ in random.next() }
    words[0] = words[0] << 32 | UInt64(number)
    let bytes = words.withUnsafeBytes { Array($0) }
    contents[number] = bytes
    return bytes
  }

  /// What a sector that operation `number` wrote begins with.
  func firstBytes(_ number: UInt32) throws -> ArraySlice<UInt8> { pattern(number).prefix(4) }

  // MARK: - Looking

  /// Whether the journal takes no more writes.
  var hasFailed: Bool {
    get throws {
      guard let journal else { return true }
      return try journal.status().failure != nil
    }
  }

  /// Whether the content is that of the last operation.
  func isCurrent(_ note: String) throws -> Bool { try content(note) == states.last }

  /// The operation number of each sector.
  func content(_ note: String) throws -> [UInt32] {
    var numbers: [UInt32] = []
    for volume in 0..<2 {
      do {
        numbers += try read(volume * Self.volumeSectorCount, Self.volumeSectorCount, note)
      } catch let error as JournalError {
        throw Violation("\(note): what was durable cannot be read: \(error.message)", error)
      }
    }
    return numbers
  }

  /// Every checkpoint must be there, unless nobody was told so, and show what its disk held when it was sealed. With
  /// `mayFail` the disk may refuse to read.
  private func compareCheckpoints(_ note: String, mayFail: Bool = false) throws {
    guard let journal else { preconditionFailure("the machine is off") }
    for index in checkpoints.indices.reversed() {
      let checkpoint = checkpoints[index]
      guard
        let disk = journal.generations.first(where: {
          $0.name == volumes[checkpoint.volume].name && $0.generationName == checkpoint.name
        })
      else {
        guard checkpoint.isDoubtful else { throw Violation("\(note): \(checkpoint.name) is gone") }
        checkpoints.remove(at: index)
        continue
      }
      guard disk.isSealed else { throw Violation("\(note): \(checkpoint.name) has a name and no seal") }
      let found: [UInt32]
      do {
        found = try read(disk, ByteRange(start: 0, end: disk.byteCount), "\(note): \(checkpoint.name)")
      } catch let error as JournalError {
        if mayFail { continue }
        throw Violation("\(note): \(checkpoint.name) cannot be read: \(error.message)", error)
      }
      guard found.elementsEqual(checkpoint.content) else {
        throw Violation("\(note): \(checkpoint.name) is not what was sealed: \(describe(found))")
      }
    }
  }

  /// As `content`, in reads of four sectors; nil for those that are reported as damaged, by name of the place.
  func readableContent(_ note: String) throws -> [UInt32?] {
    var numbers: [UInt32?] = []
    for start in stride(from: 0, to: Self.sectorCount, by: 4) {
      do {
        numbers += try read(start, 4, note)
      } catch let error as JournalError {
        guard error.message.contains("segments/") else {
          throw Violation("\(note): a read fails without naming the place: \(error)")
        }
        numbers += [nil, nil, nil, nil]
      }
    }
    return numbers
  }

  /// The operation numbers of some sectors of one disk.
  func read(_ start: Int, _ count: Int, _ note: String) throws -> [UInt32] {
    let (volume, range) = place(start, count)
    return try read(volume, range, note, from: start)
  }

  private func read(_ disk: Disk, _ range: ByteRange, _ note: String, from start: Int = 0) throws -> [UInt32]
  {
    let count = Int(range.count / 512)
    let buffer = buffer
    var all = buffer.mutableBytes
    var target = all._mutatingExtracting(0..<count * 512)
    _ = try disk.readIngest(range, into: &target)
    return try (0..<count).map { index in
      let bytes = UnsafeRawBufferPointer(rebasing: buffer.raw[index * 512..<(index + 1) * 512])
      let number = bytes.loadUnaligned(as: UInt32.self)
      let isWhole =
        number < nextNumber
        && pattern(number).withUnsafeBytes { memcmp($0.baseAddress!, bytes.baseAddress!, 512) == 0 }
      guard isWhole else { throw Violation("\(note): sector \(start + index) is torn or foreign") }
      return number
    }
  }

  /// A state in runs, for people.
  private func describe(_ state: [UInt32]) -> String {
    var runs: [String] = []
    var start = 0
    for end in 1...state.count where end == state.count || state[end] != state[start] {
      if state[start] != 0 { runs.append("\(start)..<\(end) = \(state[start])") }
      start = end
    }
    return runs.isEmpty ? "zeroes" : runs.joined(separator: ", ")
  }
}
