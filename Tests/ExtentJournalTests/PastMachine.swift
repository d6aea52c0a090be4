import Bytes
import ExtentJournal
import Foundation
import TestKit

/// A journal on a simulated machine, and what its disk looked like after each record.
///
/// Each operation sets whole sectors to its own number, in one record; the model remembers the disk by the sequence of
/// that record. So what it was at the end of any batch is what it was at the last sequence not behind it.
final class PastMachine {
  static let sectorCount = 192
  /// What a sector says that was released.
  static let released: Int64 = -1

  let seed: UInt64
  /// Whether the index is lost and the power goes in the midst of work.
  private let hasMishaps: Bool
  private(set) var disk: SimulatedDisk
  let directory: TemporaryDirectory
  var limit: HistoryLimit
  private(set) var host = JournalHost()
  private(set) var journal: Journal!
  private var random: SeededGenerator
  private var boots = 1
  private(set) var moments: [(sequence: UInt64, content: [Int64])] = []
  private var nextNumber: Int64 = 1
  private var open: [(past: PastDisk, content: [Int64])] = []
  /// How many points in time were compared, and what upkeep did.
  private(set) var compared = 0
  private(set) var upkeep = UpkeepReport()

  init(
    seed: UInt64, limit: HistoryLimit, bug: PlantedBug? = nil, pagesMax: Int? = nil, hasMishaps: Bool = true
  ) throws {
    self.seed = seed
    self.hasMishaps = hasMishaps
    self.limit = limit
    random = SeededGenerator(seed: seed)
    disk = SimulatedDisk(seed: seed)
    directory = try TemporaryDirectory(in: "/dev/shm")
    host.segments = disk
    host.hooks.bug = bug
    host.spoolBytesMin = 1 << 20
    host.segmentBytesMax = Machine.upkeepSegmentSizes[Int(seed % 3)]
    host.fullDiskRetryNanoseconds = 1_000_000
    host.upkeepEveryNanoseconds = nil
    host.upkeepLimits.punchedBytesMin = 4 << 10
    host.upkeepLimits.retiredBytesMin = 20 << 10
    host.upkeepLimits.compactedBytesMin = 0
    host.upkeepLimits.overheadBytes = 16 << 10
    host.upkeepLimits.slackBytes = 0
    host.upkeepLimits.sealedBytesMin = 12 << 10
    host.upkeepLimits.coldNanoseconds = 0
    if let pagesMax { host.indexPagesMax = pagesMax }
    try boot()
    note([Int64](repeating: 0, count: Self.sectorCount))
  }

  deinit {
    open = []
    journal?.abandon()
  }

  private var volume: Disk { journal.disks[0] }
  private var content: [Int64] { moments[moments.count - 1].content }

  // MARK: - Life and death

  private func boot() throws {
    let digits = String(boots)
    host.bootID = "00000000-0000-4000-8000-" + String(repeating: "0", count: 12 - digits.count) + digits
    var options = JournalOptions()
    options.spoolDirectory = directory.path
    options.spoolByteCount = 1 << 20
    options.history = limit
    journal = try Journal.open(directory.file("j"), options: options, host: host) { _, _ in }
    _ = try journal.disk("d", byteCount: UInt64(Self.sectorCount * 512), mode: .device)
  }

  /// Stops as `how` says and opens the journal again.
  func reopen(_ how: Stop) throws {
    open = []
    switch how {
    case .closed: try journal.close()
    case .killed, .indexLost: journal.abandon()
    case .powerCut:
      disk.cutPower()
      journal.abandon()
      boots += 1
    }
    journal = nil
    disk.powerOn()
    if how == .indexLost {
      for name in ["data.mdb", "lock.mdb"] {
        try? FileManager.default.removeItem(atPath: directory.file("j/index/\(name)"))
      }
    }
    try boot()
    guard how == .powerCut else { return }
    // What was not durable is gone, from some record on.
    let found = try read { range in try self.bytes(range) { try self.volume.readIngest(range, into: &$0) } }
    while moments.count > 1, content != found { moments.removeLast() }
    guard content == found else {
      throw Violation("seed \(seed): the content after a power cut is no prefix")
    }
  }

  enum Stop: CaseIterable { case closed, killed, powerCut, indexLost }

  // MARK: - Work

  private func note(_ content: [Int64]) {
    guard let status = try? journal.status() else { preconditionFailure("the journal has no status") }
    moments.append((status.lastSequence, content))
  }

  private func change(_ start: Int, _ count: Int, to number: Int64) {
    var changed = content
    for sector in start..<start + count { changed[sector] = number }
    note(changed)
  }

  private func range(_ start: Int, _ count: Int) -> ByteRange {
    ByteRange(offset: UInt64(start * 512), count: UInt64(count * 512))
  }

  func write(_ start: Int, _ count: Int) throws {
    let number = nextNumber
    nextNumber += 1
    let sector = Self.pattern(number)
    try volume.write(Array((0..<count).map { _ in sector }.joined()), at: UInt64(start * 512))
    change(start, count, to: number)
  }

  func zero(_ start: Int, _ count: Int, mayTrim: Bool) throws {
    try volume.writeZeroes(range(start, count), mayTrim: mayTrim, durable: false).wake()
    change(start, count, to: 0)
  }

  func release(_ start: Int, _ count: Int) throws {
    try volume.release(range(start, count)).wake()
    change(start, count, to: Self.released)
  }

  func runUpkeep(recompresses: Bool) throws {
    let report = try journal.upkeep(recompresses: recompresses)
    upkeep.unlinkedSegments += report.unlinkedSegments
    upkeep.punchedRuns += report.punchedRuns
    upkeep.movedFrames += report.movedFrames
    upkeep.reencodedFrames += report.reencodedFrames
    upkeep.recompressedFrames += report.recompressedFrames
    upkeep.movedRecords += report.movedRecords
  }

  /// Builds the index again, by which the past is lost.
  private func loseIndex() throws {
    try reopen(.indexLost)
    try journal.checkpoint()
    let ends = try journal.batchEnds().ends
    guard ends.count == 1 else { throw Violation("seed \(seed): the index is new, and knows \(ends)") }
  }

  /// Cuts the power at some operation of the disk in the midst of work.
  private func cutSomewhere() throws {
    try write(0, 40)
    disk.plant(.powerCut, after: Int.random(in: 0..<40, using: &random))
    do {
      try journal.checkpoint()
      try runUpkeep(recompresses: true)
    } catch {
      guard disk.isPowerCut else { throw error }
    }
    disk.clearFaults()
    try reopen(.powerCut)
  }

  /// One random operation.
  func step() throws {
    let start = Int.random(in: 0..<Self.sectorCount, using: &random)
    let count = Int.random(in: 1...min(48, Self.sectorCount - start), using: &random)
    switch Int.random(in: 0..<40, using: &random) {
    case 0..<17: try write(start, count)
    case 17..<19: try zero(start, count, mayTrim: false)
    case 19..<21: try zero(start, count, mayTrim: true)
    case 21: try release(start, count)
    case 22..<29: try journal.spill()
    case 29..<32: try journal.checkpoint()
    case 32..<36: try runUpkeep(recompresses: Bool.random(using: &random))
    case 36: try reopen(.killed)
    case 37: try reopen([.closed, .powerCut].randomElement(using: &random)!)
    case 38 where hasMishaps:
      if Int.random(in: 0..<3, using: &random) == 0 { try loseIndex() } else { try cutSomewhere() }
    default: try openSome()
    }
  }

  // MARK: - Looking

  /// Keeps a reader of some point in time, which is compared from then on.
  private func openSome() throws {
    if open.count == 3 { open.removeFirst(Int.random(in: 1...3, using: &random)) }
    let ends = try journal.batchEnds().ends
    guard let sequence = ends.map(\.sequence).filter(hasDisk).randomElement(using: &random) else { return }
    let past = try journal.disk("d", at: sequence)
    open.append((past, model(sequence)))
  }

  private func model(_ sequence: UInt64) -> [Int64] {
    moments.last { $0.sequence <= sequence }?.content ?? moments[0].content
  }

  /// Whether the disk is there at `sequence`.
  private func hasDisk(_ sequence: UInt64) -> Bool { sequence >= moments[0].sequence }

  /// Compares some points in time, all with `isThorough`, and what is open; and asks for some that are none.
  func check(_ what: String, isThorough: Bool = false) throws {
    let place = "seed \(seed), \(what)"
    if let flaw = try journal.livenessFlaw() { throw Violation("\(place): \(flaw)") }
    for (past, content) in open { try compare(past, content, "\(place), open") }
    let ends = try journal.batchEnds().ends.map(\.sequence).filter(hasDisk)
    var chosen = Set(ends.prefix(1) + ends.suffix(1))
    if let some = ends.randomElement(using: &random) { chosen.insert(some) }
    for sequence in isThorough ? ends : ends.filter(chosen.contains) {
      let past: PastDisk
      do {
        past = try journal.disk("d", at: sequence)
      } catch {
        throw Violation("\(place): sequence \(sequence): \(error.message)", error)
      }
      try compare(past, model(sequence), place)
      let all = try past.status(range(0, Self.sectorCount), limit: .max).reduce(0) { $0 + $1.byteCount }
      guard all == UInt64(Self.sectorCount * 512) else { throw Violation("\(place): the status has gaps") }
    }
    try refuse(ends, place)
  }

  private func refuse(_ ends: [UInt64], _ place: String) throws {
    guard let oldest = ends.first, let newest = ends.last else { return }
    let known = Set(ends)
    let sequence = UInt64.random(in: 0...newest, using: &random)
    // What is not in the index yet may end a batch, too.
    guard !known.contains(sequence), oldest > moments[0].sequence || sequence > oldest else { return }
    do {
      _ = try journal.disk("d", at: sequence)
    } catch {
      let below = ends.last { $0 < sequence }
      let above = ends.first { $0 > sequence }!
      let isNamed =
        below.map { error.message.contains("\($0) and \(above)") } ?? error.message.contains("\(oldest)")
      guard error.kind == .usage, isNamed else {
        throw Violation("\(place): sequence \(sequence) of \(ends): \(error.message)")
      }
      return
    }
    throw Violation("\(place): sequence \(sequence) is none of \(ends), and can be read")
  }

  private func compare(_ past: PastDisk, _ content: [Int64], _ place: String) throws {
    compared += 1
    let found: [Int64]
    do {
      found = try read { range in try self.bytes(range) { try past.read(range, into: &$0) } }
    } catch let error as JournalError {
      throw Violation("\(place): sequence \(past.sequence) cannot be read: \(error.message)", error)
    }
    guard found != content else { return }
    let sector = zip(found, content).enumerated().first { $0.element.0 != $0.element.1 }!
    throw Violation(
      "\(place): sequence \(past.sequence): sector \(sector.offset) is of \(sector.element.0), not \(sector.element.1)"
    )
  }

  private func bytes<Result>(
    _ range: ByteRange, _ read: (inout MutableRawSpan) throws -> Result
  ) throws -> [UInt8] {
    let buffer = AlignedBuffer(byteCount: Int(range.count))
    buffer.raw.initializeMemory(as: UInt8.self, repeating: 0xa5)
    var target = buffer.mutableBytes
    _ = try read(&target)
    return Array(buffer.raw)
  }

  /// The number of each sector as `bytes` reads them.
  private func read(_ bytes: (ByteRange) throws -> [UInt8]) throws -> [Int64] {
    do {
      return try numbers(bytes(range(0, Self.sectorCount)))
    } catch let error as JournalError where error.kind == .notPermitted {
      return try (0..<Self.sectorCount).map { sector in
        do {
          return try numbers(bytes(range(sector, 1)))[0]
        } catch let error as JournalError where error.kind == .notPermitted {
          return Self.released
        }
      }
    }
  }

  private func numbers(_ bytes: [UInt8]) throws -> [Int64] {
    try stride(from: 0, to: bytes.count, by: 512).map { at in
      let sector = Array(bytes[at..<at + 512])
      let number = sector.withUnsafeBytes { $0.loadUnaligned(as: Int64.self) }
      let isRight = number == 0 ? sector.allSatisfy { $0 == 0 } : number > 0 && sector == Self.pattern(number)
      guard isRight else { throw Violation("a sector holds what nobody wrote") }
      return number
    }
  }

  /// A sector of operation `number`: the number, then what no compressor can shorten.
  private static func pattern(_ number: Int64) -> [UInt8] {
    var random = SeededGenerator(seed: UInt64(number))
    var words = (0..<64).map { _ in random.next() }
    words[0] = UInt64(number)
    return words.withUnsafeBytes { Array($0) }
  }
}
