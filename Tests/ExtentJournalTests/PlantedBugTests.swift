import Bytes
import ExtentJournal
import Foundation
import TestKit
import Testing
import Threads

// Goal: the histories, and the tests that hold threads at a barrier, would notice if a rule were broken.
// Method: the journal breaks it (PlantedBug), and the same check that passes without must fail.

@Suite struct PlantedBugTests {
  private static let bugsOfHistories: [PlantedBug] = [
    .indexBeforeSync, .flushWithoutSync, .ackBeforeCommitWord, .syncRetried, .halfBatchAccepted,
    .staleCommitWord,
    .ringReplayedInPlaceOrder,
  ]
  /// GenerationBugTests and GenerationCrashTests.
  private static let bugsOfGenerations: [PlantedBug] = [.baseOverArrived, .baseOfBaseRead, .sealNotFlushed]
  /// ReleaseTests and DropTests.
  private static let bugsOfReleases: [PlantedBug] = [.tombstoneOverwritten, .buriedUnderReaders]
  private static let bugsOfReaders: [PlantedBug] = [.ringReusedUnderReaders, .readerWithoutEpoch]

  @Test("every bug that can be planted is")
  func completeness() {
    // SourceOrderTests and JobLivenessTests (of the service) plant those of the source.
    let bugsOfSources: [PlantedBug] = [.lookBeforeSource, .staleSnapshot, .taintNotChecked, .successorJob]
    // UpkeepHistoryTests and UpkeepReaderTests.
    let bugsOfUpkeep: [PlantedBug] = [
      .durabilityForgotten,
      .freedBeforeIndex, .recordsForgotten, .framesReadOutsideEpoch, .freedUnderReaders, .moveWithoutCompare,
    ]
    // CheckpointHistoryTests, CheckpointRaceTests, and CheckpointTests end to end.
    let bugsOfCheckpoints: [PlantedBug] = [.writtenBehindSeal, .ringNamesGeneration, .checkpointLeftOpen]
    // PastTests.
    let bugsOfHistory: [PlantedBug] = [
      .pastNotHeld, .pastRecordsForgotten, .pastSegmentsTouched, .pastFramesMoved,
    ]
    let planted =
      Self.bugsOfHistories + Self.bugsOfReaders + Self.bugsOfGenerations + Self.bugsOfReleases + bugsOfSources
      + [.indexWhilePublishing, .taintWordLeftOut] + bugsOfUpkeep + bugsOfCheckpoints + bugsOfHistory
    #expect(Set(planted) == Set(PlantedBug.allCases))
  }

  // PowerLossTests run the same seeds, and more, without a bug.
  @Test(
    "random histories notice a broken rule",
    arguments: bugsOfHistories)
  func histories(bug: PlantedBug) throws {
    for seed in 1...1000 as ClosedRange<UInt64> {
      do {
        try PowerHistory.run(seed: seed, bug: bug)
      } catch let violation as Violation {
        print("\(bug): noticed at seed \(seed): \(violation)")
        return
      }
    }
    Issue.record("a thousand histories went by and none noticed \(bug)")
  }

  @Test(
    "ring space under a reader is not reused: the reader gets what it looked up",
    arguments: [nil] + bugsOfReaders.map(Optional.some))
  func readerAndRing(bug: PlantedBug?) throws {
    let log = StageLog()
    var hooks = TestHooks()
    hooks.bug = bug
    // The reader stays between look-up and copy until somebody waits for it, or nobody will.
    hooks.atStage = { stage in
      log.note(stage)
      if stage == .readPlanned { log.wait(for: .reclaimWaits) }
    }
    let machine = try Machine(seed: 2, spoolByteCount: 192 << 10, hooks: hooks)
    let disk = try #require(machine.journal).disk("a", byteCount: nil, mode: nil)
    let expected = (0..<20480).map { UInt8(truncatingIfNeeded: $0 / 3) }
    try disk.write(expected, at: 0)
    let result = Box<[UInt8]>([])
    let reader = try #require(
      WorkerThread(name: "reader") {
        if case .success(let bytes) = Result(catching: { try disk.bytes(ByteRange(offset: 0, count: 20480)) })
        {
          result.value = bytes
        }
      })
    log.wait(for: .readPlanned)
    // Four laps.
    for lap in 0..<40 {
      try disk.write([UInt8](repeating: UInt8(lap) | 0x80, count: 20480), at: 20480)
    }
    log.end()
    reader.join()
    #expect((result.value == expected) == (bug == nil))
  }

  @Test(
    "the index never points to what is not durable, though it commits while a batch is being published",
    arguments: [nil, .indexWhilePublishing] as [PlantedBug?])
  func indexAndPublication(bug: PlantedBug?) throws {
    let log = StageLog()
    let isArmed = Box(false)
    var hooks = TestHooks()
    hooks.bug = bug
    hooks.atStage = { stage in
      guard isArmed.value else { return }
      log.note(stage)
      // The commit begins, then half a batch is published, then the commit either waits or goes through.
      if stage == .indexBegun { log.wait(for: .publishing) }
      if stage == .publishing { log.wait(for: .indexWaits, .indexCommitted) }
    }
    let machine = try Machine(seed: 2, hooks: hooks)
    try machine.perform(.write(start: 0, count: 8))
    try machine.perform(.flush)
    isArmed.value = true
    let journal = try #require(machine.journal)
    let indexer = try #require(
      WorkerThread(name: "checkpoint") {
        if case .failure(let error) = Result(catching: { try journal.checkpoint() }) { Issue.record(error) }
      })
    log.wait(for: .indexBegun)
    try machine.perform(.write(start: 4, count: 8))
    try machine.perform(.spill)
    indexer.join()
    isArmed.value = false
    machine.disk.cutPower()
    machine.die()
    let disk = SimulatedDisk(machine.disk.snapshot) { _ in false }
    let outcome = Result { _ = try Machine(after: machine, with: disk).settle("nothing unsynced survives") }
    switch (bug, outcome) {
    case (nil, .failure(let error)): Issue.record(error)
    case (nil, .success), (_?, .failure(is Violation)): break
    case (let bug?, _): Issue.record("\(bug) was not noticed: \(outcome)")
    }
  }

  // A process that dies between breaking a generation and the record of it: its files are copied at that moment.
  @Test(
    "a generation that readers saw broken is broken after a kill at that instant",
    arguments: [nil, .taintWordLeftOut] as [PlantedBug?])
  func taintWord(bug: PlantedBug?) throws {
    let directory = try TemporaryDirectory(in: "/dev/shm")
    let (live, image) = (directory.file("live"), directory.file("image"))
    try FileManager.default.createDirectory(atPath: live, withIntermediateDirectories: false)
    var options = JournalOptions()
    options.spoolDirectory = live
    options.spoolByteCount = 192 << 10
    var host = JournalHost()
    host.spoolBytesMin = options.spoolByteCount
    host.hooks.bug = bug
    host.hooks.atStage = { stage in
      guard stage == .taintMarked else { return }
      if case .failure(let error) = Result(catching: {
        try FileManager.default.copyItem(atPath: live, toPath: image)
      }) {
        Issue.record(error)
      }
    }
    do {
      let journal = try Journal.open(live + "/j", options: options, host: host, log: { _, _ in })
      let disk = try journal.disk("s", byteCount: 1 << 20, mode: .snapshot)
      try disk.write([UInt8](repeating: 1, count: 4096), at: 0)
      try disk.write([UInt8](repeating: 2, count: 4096), at: 0)
      journal.abandon()
    }
    try FileManager.default.removeItem(atPath: live)
    try FileManager.default.moveItem(atPath: image, toPath: live)
    host.hooks = TestHooks()
    let journal = try Journal.open(live + "/j", options: options, host: host, log: { _, _ in })
    defer { journal.abandon() }
    #expect(try journal.status().disks[0].generations[0].tainted == (bug == nil))
  }
}

/// A value that several threads may look at.
final class Box<Value: Sendable>: @unchecked Sendable {
  // Sendable: guarded by `lock`.
  private let lock = Lock()
  private var stored: Value
  init(_ value: Value) { stored = value }
  var value: Value {
    get { lock.withLock { stored } }
    set { lock.withLock { stored = newValue } }
  }
}
