import Bytes
import ExtentJournal
import Foundation
import TestKit
import Testing

// Goal: what is dropped is gone, and nobody else notices: what others show of it they keep, byte for byte.
// Method: chains of generations of which some are dropped, compared with what they showed before, through kills, closes
// and new indexes, with a power cut at every operation; a reader that is held in the middle; bugs planted.

@Suite struct DropTests {
  typealias Setup = GenerationSetup

  private func names(_ setup: Setup) -> [String] {
    setup.journal.generations.compactMap(\.generationName)
  }

  @Test("what the others show stays, through a kill, a close and a new index", arguments: [0, 1, 2])
  func others(dropped: Int) throws {
    let setup = try Setup()
    var names = try setup.chain(4)
    let before = try names.map { try setup.versions($0) }
    try setup.journal.drop(names[dropped], of: "d")
    #expect(failure { try setup.journal.drop(names[dropped], of: "d") } == .usage, "it is gone")
    let kept = [0, 1, 2, 3].filter { $0 != dropped }
    names.remove(at: dropped)
    func check(_ when: String) throws {
      #expect(self.names(setup) == names, "\(when)")
      for (name, index) in zip(names, kept) { #expect(try setup.versions(name) == before[index], "\(when)") }
    }
    try check("at once")
    setup.fixture.crash()
    try setup.fixture.open()
    try check("after a kill")
    try setup.journal.checkpoint()
    #expect(try setup.verify().flaws == [])
    try setup.fixture.close()
    try setup.fixture.removeIndex()
    try setup.fixture.open()
    try check("from the segments alone")
    try setup.journal.checkpoint()
    let report = try setup.verify()
    #expect(report.flaws == [] && report.generations == 4 && report.seals == 3)
    // Its name is free, and its number is not used again.
    let number = try setup.incremental("again", on: names[2], bitmap: 0..<1).generationNumber
    #expect(number == 6)
    #expect(try setup.image("d@\(names[2])").count == Int(Setup.byteCount))
  }

  @Test(
    "a drop that comes before the index has followed the one before it forgets nobody", arguments: [0, 2])
  func twoDrops(second: Int) throws {
    let setup = try Setup()
    let names = try setup.chain(4)
    let before = try names.map { try setup.versions($0) }
    try setup.journal.drop(names[1], of: "d")
    try setup.fixture.close()
    try setup.fixture.removeIndex()
    try setup.fixture.open()
    try setup.journal.drop(names[second], of: "d")
    for index in [0, 2, 3] where index != second {
      #expect(try setup.versions(names[index]) == before[index])
    }
    #expect(
      failure {
        try setup.journal.generation(of: "d", named: names[second == 0 ? 2 : 0]).release(Setup.range(0..<1))
          .wake()
      } == .notPermitted)
    try setup.journal.checkpoint()
    #expect(try setup.verify().flaws == [])
  }

  @Test("a chain is dropped from either end, and the last one has it all")
  func wholeChain() throws {
    for fromTheTop in [false, true] {
      let setup = try Setup()
      let names = try setup.chain(5)
      let last = try setup.versions(names[4])
      for name in fromTheTop ? names[0..<4].reversed() : Array(names[0..<4]) {
        try setup.journal.drop(name, of: "d")
        #expect(try setup.versions(names[4]) == last)
      }
      #expect(self.names(setup) == [names[4]])
      let status = try #require(try setup.journal.status().disks.first).generations
      #expect(status.map(\.name) == [names[4]] && status[0].base == nil)
      try setup.journal.checkpoint()
      #expect(try setup.verify().flaws == [])
    }
  }

  @Test("the open one, the newest one, and what an open one stands on are not dropped")
  func refusals() throws {
    let setup = try Setup()
    try setup.full("monday")
    #expect(failure { try setup.journal.drop("monday", of: "d") } == .usage, "the newest")
    let open = try setup.incremental("tuesday", on: "monday", bitmap: 0..<1)
    #expect(failure { try setup.journal.drop("tuesday", of: "d") } == .usage, "open")
    #expect(failure { try setup.journal.drop("monday", of: "d") } == .usage, "below an open one")
    #expect(failure { try setup.journal.drop("friday", of: "d") } == .usage)
    #expect(failure { try setup.journal.drop("monday", of: "e") } == .usage)
    try setup.write(0..<1, 2, to: open)
    try open.seal()
    try setup.journal.drop("monday", of: "d")
    // Now that nothing stands on it and it stands on nothing.
    try open.release(Setup.range(0..<1)).wake()
    #expect(failure { _ = try setup.view("tuesday", 0..<1) } == .notPermitted)
  }

  @Test("a view that is open when its generation goes fails, and shows no zeroes")
  func openView() throws {
    let setup = try Setup()
    try setup.chain(3)
    let monday = try setup.journal.generation(of: "d", named: "monday")
    try setup.journal.drop("monday", of: "d")
    #expect(failure { _ = try monday.view(Setup.range(0..<1)) } == .failed)
  }

  @Test("a release of a base is kept by those that stood on it")
  func releasedBase() throws {
    let setup = try Setup()
    let monday = try setup.journal.begin("d", GenerationRequest(name: "monday"))
    try setup.write(0..<16, 1, to: monday)
    try monday.release(Setup.range(4..<6)).wake()
    try monday.seal()
    let tuesday = try setup.incremental("tuesday", on: "monday", bitmap: 0..<1)
    try setup.write(0..<1, 2, to: tuesday)
    try tuesday.seal()
    try setup.journal.drop("monday", of: "d")
    #expect(failure { _ = try setup.view("tuesday", 4..<5) } == .notPermitted)
    #expect(try setup.view("tuesday", 6..<7) == Setup.content(6, 1))
  }

  @Test("a chain that grows too deep is flattened, and every generation of it shows what it showed")
  func flattening() throws {
    let setup = try Setup()
    let names = try setup.chain(20)
    func depth(_ name: String?) throws -> Int {
      let all = try #require(try setup.journal.status().disks.first).generations
      var count = 0
      var next = name
      while let name = next {
        count += 1
        next = all.first { $0.name == name }?.base
      }
      return count
    }
    for name in names { #expect(try depth(name) <= 8) }
    var expected = [1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    for index in names.indices {
      if index > 0 {
        for block in 0..<2 { expected[index * 2 % 14 + block] = index % 8 + 1 }
      }
      #expect(try setup.versions(names[index]) == expected, "\(names[index])")
    }
    try setup.journal.checkpoint()
    #expect(try setup.verify().flaws == [])
    try setup.fixture.close()
    try setup.fixture.removeIndex()
    try setup.fixture.open()
    #expect(try setup.versions(names[19]) == expected)
  }

  @Test("retention keeps the newest sealed generations, each of them whole")
  func retention() throws {
    let setup = try Setup { $0.keptGenerations = 3 }
    let names = try setup.chain(7)
    #expect(self.names(setup) == Array(names[4...]))
    let last = try setup.versions(names[6])
    try setup.fixture.close()
    setup.fixture.options.keptGenerations = 1
    try setup.fixture.open()
    try setup.journal.applyRetention()
    #expect(self.names(setup) == [names[6]])
    #expect(try setup.versions(names[6]) == last)
    try setup.journal.checkpoint()
    #expect(try setup.verify().flaws == [])
  }

  @Test(
    "a reader that looked before the drop reads what it looked up",
    arguments: [nil, .buriedUnderReaders] as [PlantedBug?])
  func heldReader(bug: PlantedBug?) throws {
    let log = StageLog()
    let isArmed = Box(false)
    var hooks = TestHooks()
    hooks.bug = bug
    // The reader comes just before the index follows the drop (what comes earlier the spill waits for), and stays between
    // its own generation and the base until somebody waits for it, or nobody will.
    hooks.atStage = { stage in
      guard isArmed.value else { return }
      log.note(stage)
      if stage == .indexBegun { log.wait(for: .baseWanted) }
      if stage == .baseWanted { log.wait(for: .reclaimWaits) }
    }
    let setup = try Setup(hooks: hooks)
    let names = try setup.chain(3)
    try setup.fixture.close()
    // No batch of its own accord: whoever spills waits for readers, too.
    setup.fixture.host.idleMarkNanoseconds = 1 << 50
    try setup.fixture.open()
    let journal = setup.journal
    isArmed.value = true
    let result = Box<[UInt8]>([])
    let reader = try Background("reader") {
      log.wait(for: .indexBegun)
      if case .success(let bytes?) = Result(catching: {
        try journal.generation(of: "d", named: names[1]).view(Setup.range(7..<8))
      }) {
        result.value = bytes
      }
    }
    try journal.drop(names[0], of: "d")
    log.end()
    reader.finish()
    #expect((result.value == Setup.content(7, 1)) == (bug == nil))
  }

  @Test("what was taken in outlives the segments that brought it, also when the index is built again")
  func upkeep() throws {
    let setup = try Setup()
    let names = try setup.chain(4)
    let before = try names.map { try setup.versions($0) }
    try setup.fixture.close()
    try setup.fixture.open()
    for dropped in 0..<3 {
      try setup.journal.drop(names[dropped], of: "d")
      _ = try setup.journal.upkeep()
      for index in dropped + 1..<4 { #expect(try setup.versions(names[index]) == before[index]) }
      try setup.fixture.close()
      try setup.fixture.removeIndex()
      try setup.fixture.open()
      for index in dropped + 1..<4 {
        #expect(try setup.versions(names[index]) == before[index], "\(names[index])")
      }
      #expect(try setup.journal.livenessFlaw() == nil)
    }
    let last = { try setup.journal.generation(of: "d", named: names[3]) }
    try last().release(Setup.range(0..<16)).wake()
    _ = try setup.journal.upkeep()
    #expect(try setup.journal.spaceStatus().liveBytes == 0)
  }

  @Test(
    "a power cut at any operation of a drop loses nothing of the others, and a drop that returned stays done")
  func powerCuts() throws {
    var cut: Int? = nil
    var count = 0
    repeat {
      let host = try GenerationHost(disk: SimulatedDisk(seed: UInt64(cut ?? 0)))
      let journal = try host.open()
      for step in GenerationScript.steps { try step(journal) }
      try journal.disks[0].end("enough")
      try journal.checkpoint()
      let before = host.disk.operationCount
      if let cut { host.disk.plant(.powerCut, after: cut) }
      var isDone = false
      if case .success = Result(catching: {
        try journal.drop("full", of: "d")
        try journal.checkpoint()
      }) {
        isDone = true
      }
      count = host.disk.operationCount - before
      host.disk.cutPower()
      journal.abandon()
      var random = SeededGenerator(seed: UInt64(cut ?? 0))
      let disk = SimulatedDisk(host.disk.snapshot) { _ in Bool.random(using: &random) }
      let again = try GenerationHost(after: host, disk: disk).open()
      let names = again.generations.compactMap(\.generationName)
      #expect(!(isDone && names.contains("full")), "cut at \(cut ?? -1)")
      let inc = try again.generation(of: "d", named: "inc")
      for (index, version) in [1, 1, 2, 2].enumerated() {
        let range = ByteRange(offset: UInt64(index) * GenerationScript.block, count: GenerationScript.block)
        #expect(
          try inc.view(range) == GenerationScript.content(UInt64(index), version), "cut at \(cut ?? -1)")
      }
      #expect(try again.status().damage == nil)
      again.abandon()
      cut = (cut ?? -1) + 1
    } while (cut ?? 0) <= count
    #expect(count > 0)
  }
}
