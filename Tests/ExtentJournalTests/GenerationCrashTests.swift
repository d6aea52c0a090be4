import Bytes
import ExtentJournal
import Foundation
import TestKit
import Testing

// Goal: a crash at any moment leaves generations as they were promised: what was begun, pre-sealed or sealed when the
// call returned is so afterwards, and what is sealed has exactly what was written.
// Method: a short script (full, incremental, a third begun on it) on the simulated disk, whose power is cut at each of its
// operations; of what was not durable all survives, nothing, or a seeded choice. And the same script killed after each
// step, then told the rest of it.

@Suite struct GenerationCrashTests {
  @Test(
    "a power cut at every operation leaves each generation in a state that was promised, with the right content",
    arguments: [8 << 10, 64 << 20] as [UInt64])
  func powerCuts(segmentBytesMax: UInt64) throws {
    let count = try run(cutAt: nil, bug: nil, segmentBytesMax).operations
    #expect(count >= 14, "begin, pre-seal and seal write and sync at least once each")
    for cut in 0...count { _ = try run(cutAt: cut, bug: nil, segmentBytesMax) }
    print("power cuts: \(count + 1), each with nothing, all and a choice surviving")
  }

  @Test("the power cuts notice a seal that is not durable")
  func sealNotFlushed() throws {
    let count = try run(cutAt: nil, bug: nil).operations
    for cut in 0...count {
      do { _ = try run(cutAt: cut, bug: .sealNotFlushed) } catch is Violation { return }
    }
    Issue.record("nobody noticed")
  }

  @Test(
    "after a kill behind each step the rest of the script ends as if nothing had been",
    arguments: [false, true])
  func kills(repeats: Bool) throws {
    for kill in 0..<GenerationScript.steps.count {
      let host = try GenerationHost(disk: SimulatedDisk(seed: 1))
      do {
        let journal = try host.open()
        for step in GenerationScript.steps[...kill] { try step(journal) }
        journal.abandon()
      }
      let journal = try host.open()
      defer { journal.abandon() }
      // A client that does not know whether its last step was done says it again, if it can be said twice.
      if repeats, GenerationScript.canRepeat(kill) { try GenerationScript.steps[kill](journal) }
      for step in GenerationScript.steps[(kill + 1)...] { try step(journal) }
      try GenerationScript.check(journal, reached: GenerationScript.steps.count, "killed after step \(kill)")
      #expect(try journal.generation(of: "d", named: "third").taintReason == nil)
    }
  }

  /// Runs the script with the power cut at operation `cut` (nil: behind the last), and checks what comes back.
  private func run(
    cutAt cut: Int?, bug: PlantedBug?, _ segmentBytesMax: UInt64 = 64 << 20
  ) throws -> (operations: Int, reached: Int) {
    let host = try GenerationHost(
      disk: SimulatedDisk(seed: UInt64(cut ?? 0)), bug: bug, segmentBytesMax: segmentBytesMax)
    let journal = try host.open()
    let before = host.disk.operationCount
    if let cut { host.disk.plant(.powerCut, after: cut) }
    var reached = 0
    do {
      for step in GenerationScript.steps {
        try step(journal)
        reached += 1
      }
    } catch {
      guard host.disk.isPowerCut else { throw error }
    }
    let operations = host.disk.operationCount - before
    host.disk.cutPower()
    journal.abandon()
    var random = SeededGenerator(seed: UInt64(cut ?? 0))
    for survival in 0..<3 {
      let disk = SimulatedDisk(host.disk.snapshot) { _ in
        survival == 0 ? false : survival == 1 ? true : Bool.random(using: &random)
      }
      let note = "cut at \(cut.map { "\($0)" } ?? "the end"), survival \(survival), \(reached) steps done"
      let next = try GenerationHost(after: host, disk: disk)
      let again: Journal
      do { again = try next.open() } catch { throw Violation("\(note): \(error)", error) }
      defer { again.abandon() }
      try GenerationScript.check(again, reached: reached, note)
      try GenerationScript.goOn(again, note)
    }
    return (operations, reached)
  }
}

/// A machine on which a script runs: segments on a simulated disk, the rest in shared memory.
struct GenerationHost {
  let disk: SimulatedDisk
  private let directory: TemporaryDirectory
  private var host = JournalHost()

  init(disk: SimulatedDisk, bug: PlantedBug? = nil, segmentBytesMax: UInt64 = 64 << 20) throws {
    self.disk = disk
    directory = try TemporaryDirectory(in: "/dev/shm")
    host.segments = disk
    host.bootID = "00000000-0000-4000-8000-000000000001"
    host.spoolBytesMin = 192 << 10
    host.upkeepEveryNanoseconds = nil
    host.segmentBytesMax = segmentBytesMax
    host.hooks.bug = bug
  }

  /// The same machine, started again: `disk` is what came back of its disk, and the ring is void.
  init(after other: GenerationHost, disk: SimulatedDisk) throws {
    self.init(disk: disk, place: try TemporaryDirectory(in: "/dev/shm"), host: other.host)
    let files = FileManager.default
    for folder in ["j", "j/index", "j/segments"] {
      try files.createDirectory(atPath: directory.file(folder), withIntermediateDirectories: false)
    }
    for file in ["j/journal", "j/index/data.mdb"] where files.fileExists(atPath: other.directory.file(file)) {
      try files.copyItem(atPath: other.directory.file(file), toPath: directory.file(file))
    }
  }

  private init(disk: SimulatedDisk, place: TemporaryDirectory, host: JournalHost) {
    self.disk = disk
    directory = place
    self.host = host
    self.host.segments = disk
    self.host.bootID = "00000000-0000-4000-8000-000000000002"
    self.host.hooks = TestHooks()
  }

  func open() throws -> Journal {
    var options = JournalOptions()
    options.spoolDirectory = directory.path
    options.spoolByteCount = 192 << 10
    let journal = try Journal.open(directory.file("j"), options: options, host: host) { _, _ in }
    _ = try journal.disk("d", byteCount: GenerationScript.byteCount, mode: .snapshot)
    return journal
  }
}

/// What happens, step by step, and what must be so afterwards.
enum GenerationScript {
  static let block: UInt64 = 4096
  static let byteCount = 8 * block

  static func content(_ index: UInt64, _ version: Int) -> [UInt8] {
    (0..<Int(block)).map { UInt8(truncatingIfNeeded: $0 / 3 &+ Int(index) &* 17 &+ version &* 91) | 1 }
  }

  private static func range(_ blocks: Range<UInt64>) -> ByteRange {
    ByteRange(start: blocks.lowerBound * block, end: blocks.upperBound * block)
  }

  private static func write(_ blocks: Range<UInt64>, _ version: Int, _ journal: Journal) throws {
    for index in blocks { try journal.disks[0].write(content(index, version), at: index * block) }
  }

  /// Each is done when it returns. Those that begin, pre-seal and seal are durable then.
  static let steps: [@Sendable (Journal) throws -> Void] = [
    { _ = try $0.begin("d", GenerationRequest(name: "full")) },
    { try write(0..<4, 1, $0) },
    { try $0.disks[0].writeZeroes(range(4..<8), mayTrim: true, durable: false).wake() },
    { try $0.disks[0].preSeal(job: "one") },
    { try $0.disks[0].seal() },
    { _ = try $0.begin("d", GenerationRequest(name: "inc", kind: .incremental, base: "full", tag: "t")) },
    { try $0.disks[0].fallToBase([range(0..<2), range(4..<8)]) },
    { try write(2..<4, 2, $0) },
    { try $0.disks[0].finishBitmap() },
    { try $0.disks[0].preSeal(job: "two") },
    { try $0.disks[0].seal() },
    { _ = try $0.begin("d", GenerationRequest(name: "third", kind: .incremental, base: "inc")) },
  ]

  /// Whether a step may be said twice: a name is taken once only.
  static func canRepeat(_ step: Int) -> Bool { ![0, 5, 11].contains(step) }

  private static let expected: [String: [Int]] = [
    "full": [1, 1, 1, 1, 0, 0, 0, 0], "inc": [1, 1, 2, 2, 0, 0, 0, 0],
  ]

  /// The generations of `journal` must be as they were promised when the first `reached` steps had returned.
  static func check(_ journal: Journal, reached: Int, _ note: String) throws {
    let known = Set(journal.generations.compactMap(\.generationName))
    for (name, begun, preSealed, sealed) in [("full", 0, 3, 4), ("inc", 5, 9, 10), ("third", 11, 99, 99)] {
      guard known.contains(name) else {
        if reached > begun { throw Violation("\(note): \(name) is gone") }
        continue
      }
      if reached < begun { throw Violation("\(note): \(name) was never begun") }
      let disk = try journal.generation(of: "d", named: name)
      if reached > sealed, !disk.isSealed { throw Violation("\(note): \(name) is not sealed") }
      guard disk.isSealed || disk.isPreSealed else {
        if reached > preSealed { throw Violation("\(note): \(name) is not pre-sealed") }
        continue
      }
      if reached < preSealed { throw Violation("\(note): \(name) is sealed before its time") }
      if let taint = disk.taintReason { throw Violation("\(note): \(name) is tainted: \(taint)") }
      let versions = try (0..<8 as Range<UInt64>).map { index -> Int in
        guard let bytes = try disk.view(range(index..<index + 1)) else { return -1 }
        return (1...2).first { bytes == content(index, $0) } ?? (bytes.allSatisfy { $0 == 0 } ? 0 : -1)
      }
      guard versions == expected[name] else { throw Violation("\(note): \(name) holds \(versions)") }
    }
    if try journal.status().damage != nil { throw Violation("\(note): damage is reported") }
  }

  /// The disk goes on: what is open is finished or given up, and the next generation is begun, written and sealed.
  static func goOn(_ journal: Journal, _ note: String) throws {
    do {
      let open = journal.disks[0]
      if open.isPreSealed { try open.seal() } else if !open.isClosed { try open.end("the power was lost") }
      let next = try journal.begin("d", GenerationRequest(name: "next"))
      try next.writeZeroes(range(0..<8), mayTrim: false, durable: false).wake()
      try next.seal()
    } catch {
      throw Violation("\(note): the disk does not go on: \(error)", error)
    }
  }
}
