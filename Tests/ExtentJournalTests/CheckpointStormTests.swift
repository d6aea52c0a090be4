import Bytes
import ExtentJournal
import TestKit
import Testing
import Threads

// Goal: whatever goes on at once, a checkpoint is one moment of the disk, has everything that was acknowledged before its seal
// began and nothing that was sent after it returned, and shows that for ever.
// Method: each writer counts in one block and then in another, so that a moment has in the second what the first has, or one less.
// Meanwhile checkpoints are sealed, read over and over, and dropped, batches are indexed, and space is freed and moved in
// small segments. The counters before and after each seal bound what is in it.

@Suite struct CheckpointStormTests {
  private static let writerCount = 3
  private static let sealCount = 40

  /// How far a writer is: what was acknowledged in both of its blocks, and what it may have sent.
  private final class Count: @unchecked Sendable {
    // Sendable: guarded by `lock`.
    private let lock = Lock()
    private var acknowledged: UInt64 = 0
    private var sent: UInt64 = 0
    func send(_ number: UInt64) { lock.withLock { sent = number } }
    func acknowledge(_ number: UInt64) { lock.withLock { acknowledged = number } }
    var now: (acknowledged: UInt64, sent: UInt64) { lock.withLock { (acknowledged, sent) } }
  }

  /// The checkpoints that there are, and what each was found to hold.
  private final class Sealed: @unchecked Sendable {
    // Sendable: guarded by `lock`.
    private let lock = Lock()
    private var found: [String: [UInt64]] = [:]
    private(set) var readCount = 0
    func add(_ name: String) { lock.withLock { found[name] = [] } }
    func remove(_ name: String) { lock.withLock { found[name] = nil } }
    var names: [String] { lock.withLock { found.keys.sorted() } }
    /// Whether the checkpoint holds what it held before; one that is gone is not asked.
    func agrees(_ name: String, _ numbers: [UInt64]) -> Bool {
      lock.withLock {
        readCount += 1
        guard let before = found[name] else { return true }
        if before.isEmpty { found[name] = numbers }
        return before.isEmpty || before == numbers
      }
    }
    func isThere(_ name: String) -> Bool { lock.withLock { found[name] != nil } }
  }

  /// A block that ends inside sectors: its edges are read and written again.
  private static let blockByteCount = 5000
  private static let diskByteCount: UInt64 = 4 << 20

  private static func place(_ writer: Int, second: Bool) -> UInt64 {
    UInt64(writer) * 700_000 + (second ? 300_100 : 100)
  }

  private static func content(_ number: UInt64) -> [UInt8] {
    (0..<blockByteCount / 8).flatMap { index in
      withUnsafeBytes(of: (number &* 0x9e37_79b9_7f4a_7c15 &+ UInt64(index == 0 ? 0 : index)).bigEndian) {
        Array($0)
      }
    }
  }

  /// The number that both blocks of each writer hold; nil if one is torn.
  private static func numbers(_ disk: Disk) throws -> [UInt64]? {
    var numbers: [UInt64] = []
    for writer in 0..<writerCount {
      for second in [false, true] {
        let range = ByteRange(offset: place(writer, second: second), count: UInt64(blockByteCount))
        let bytes = try disk.bytes(range)
        let first = bytes[0..<8].reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        // The inverse of the factor of `content`.
        let number = first &* 0xf1de_83e1_9937_733d
        let isWhole = number == 0 ? bytes.allSatisfy { $0 == 0 } : bytes == content(number)
        guard isWhole else { return nil }
        numbers.append(number)
      }
    }
    return numbers
  }

  private static func isMoment(_ numbers: [UInt64]) -> Bool {
    (0..<writerCount).allSatisfy { writer in
      let (first, second) = (numbers[2 * writer], numbers[2 * writer + 1])
      return first == second || first == second + 1
    }
  }

  private func fixture() throws -> JournalFixture {
    let fixture = try JournalFixture()
    try fixture.close()
    fixture.host.segmentBytesMax = 256 << 10
    fixture.host.upkeepLimits.punchedBytesMin = 4 << 10
    fixture.host.upkeepLimits.retiredBytesMin = 20 << 10
    fixture.host.upkeepLimits.compactedBytesMin = 0
    fixture.host.upkeepLimits.overheadBytes = 16 << 10
    fixture.host.upkeepLimits.slackBytes = 0
    try fixture.open()
    try fixture.makeDisk("d", byteCount: Self.diskByteCount, mode: .device)
    return fixture
  }

  @Test("every checkpoint is one moment, while writers, readers, drops and upkeep go on")
  func storm() throws {
    let fixture = try fixture()
    let journal = try #require(fixture.journal)
    let failures = JournalFixture.Messages()
    let isDone = Flag()
    let sealed = Sealed()
    let counts = (0..<Self.writerCount).map { _ in Count() }
    var threads: [Background] = []
    for writer in 0..<Self.writerCount {
      let disk = fixture.disk
      threads.append(
        try Background("writer-\(writer)") {
          var number: UInt64 = 0
          while !isDone.isSet {
            number += 1
            counts[writer].send(number)
            let content = Self.content(number)
            try disk.write(content, at: Self.place(writer, second: false))
            try disk.write(content, at: Self.place(writer, second: true))
            counts[writer].acknowledge(number)
          }
        })
    }
    for reader in 0..<2 as Range<UInt64> {
      threads.append(
        try Background("reader-\(reader)") {
          var random = SeededGenerator(seed: reader)
          while !isDone.isSet {
            guard let name = sealed.names.randomElement(using: &random) else { continue }
            Self.check(name, journal, sealed, failures)
          }
        })
    }
    threads.append(
      try Background("upkeep") {
        while !isDone.isSet {
          try journal.checkpoint()
          _ = try journal.upkeep()
        }
      })
    let disk = fixture.disk
    var random = SeededGenerator(seed: 11)
    for index in 0..<Self.sealCount {
      let before = counts.map(\.now.acknowledged)
      let name = "s\(index)"
      try disk.seal(as: name)
      let after = counts.map(\.now.sent)
      sealed.add(name)
      guard let numbers = try Self.numbers(journal.generation(of: "d", named: name)) else {
        Issue.record("\(name) is torn")
        continue
      }
      #expect(sealed.agrees(name, numbers))
      for writer in 0..<Self.writerCount {
        #expect(
          numbers[2 * writer + 1] >= before[writer], "\(name) lacks what was acknowledged before its seal")
        #expect(numbers[2 * writer] <= after[writer], "\(name) has what was sent after its seal")
      }
      if index % 3 == 2 {
        let victim = "s\(Int.random(in: 0..<index, using: &random))"
        if sealed.isThere(victim) {
          sealed.remove(victim)
          try journal.drop(victim, of: "d")
        }
      }
    }
    isDone.set()
    for thread in threads { thread.finish() }
    #expect(failures.all.isEmpty, "\(failures.all.prefix(5))")
    print("storm: \(counts.map(\.now.acknowledged)) rounds, \(sealed.readCount) reads of checkpoints")
    for name in sealed.names { Self.check(name, journal, sealed, failures) }
    #expect(failures.all.isEmpty, "\(failures.all.prefix(5))")
    #expect(try journal.livenessFlaw() == nil)
    try journal.checkpoint()
    let report = try Verification.run(on: JournalReader.open(fixture.path), progress: { _, _ in })
    #expect(report.flaws == [])
    #expect(report.seals == UInt64(sealed.names.count))
  }

  private static func check(
    _ name: String, _ journal: Journal, _ sealed: Sealed, _ failures: JournalFixture.Messages
  ) {
    do {
      let numbers = try numbers(journal.generation(of: "d", named: name))
      guard let numbers else { return failures.add("\(name) is torn") }
      if !isMoment(numbers) { failures.add("\(name) is no moment: \(numbers)") }
      if !sealed.agrees(name, numbers) { failures.add("\(name) has changed: \(numbers)") }
    } catch {
      // It may be dropped meanwhile.
      if sealed.isThere(name) { failures.add("\(name): \(error)") }
    }
  }
}
