import Bytes
import ExtentJournal
import TestKit
import Testing

// Goal: the seal of a device disk is one moment of it, and writing goes on: each checkpoint shows for ever what had been
// written then, and the disk shows what is written now.
// Method: a disk of 16 blocks, each written with a version; every generation is compared as a whole, also after a kill, a
// close and the loss of the index, as an image, and by `verify`.

@Suite struct CheckpointTests {
  typealias Setup = GenerationSetup

  private func setup(_ change: (inout JournalOptions) -> Void = { _ in }) throws -> (Setup, Disk) {
    let setup = try Setup(mode: .device, options: change)
    return (setup, setup.fixture.disk)
  }

  private func names(_ setup: Setup) -> [String] {
    setup.journal.generations.compactMap(\.generationName)
  }

  /// Whether `disk` shows these versions of its first blocks to its writers.
  private func shows(_ disk: Disk, _ versions: [Int]) throws -> Bool {
    for (index, version) in zip(0..<Setup.blockCount, versions) {
      let bytes = try disk.bytes(Setup.range(index..<index + 1))
      let isRight = version == 0 ? bytes.allSatisfy { $0 == 0 } : bytes == Setup.content(index, version)
      if !isRight { return false }
    }
    return true
  }

  @Test("each shows its moment, through a kill, a close and a new index, and the disk goes on")
  func moments() throws {
    let setup = try setup().0
    do {
      let disk = setup.fixture.disk
      try setup.write(0..<8, 1, to: disk)
      try disk.seal(as: "a")
      try setup.write(4..<10, 2, to: disk)
      try disk.trim(Setup.range(0..<1), durable: false).wake()
      try disk.seal(as: "b")
      try disk.writeZeroes(Setup.range(5..<6), mayTrim: false, durable: false).wake()
      try setup.write(0..<2, 3, to: disk)
    }
    let a = [1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    let b = [0, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0, 0, 0, 0, 0, 0]
    let now = [3, 3, 1, 1, 2, 0, 2, 2, 2, 2, 0, 0, 0, 0, 0, 0]
    func check(_ when: String) throws {
      #expect(names(setup) == ["a", "b"], "\(when)")
      #expect(try setup.shows("a", a), "\(when)")
      #expect(try setup.shows("b", b), "\(when)")
      #expect(try setup.shows("live", now), "\(when)")
      #expect(try shows(setup.fixture.disk, now), "\(when)")
    }
    try check("at once")
    setup.fixture.crash()
    try setup.fixture.open()
    try check("after a kill")
    try setup.journal.checkpoint()
    for (name, versions) in [("d@a", a), ("d@b", b), ("d", now)] {
      let image = try setup.image(name)
      let isRight = (0..<16).allSatisfy { index in
        let block = image[index * 65536..<(index + 1) * 65536]
        let wanted =
          versions[index] == 0
          ? [UInt8](repeating: 0, count: 65536) : Setup.content(UInt64(index), versions[index])
        return block.elementsEqual(wanted)
      }
      #expect(isRight, "\(name)")
    }
    let report = try setup.verify()
    #expect(report.flaws == [] && report.seals == 2 && report.generations == 3)
    try setup.fixture.close()
    try setup.fixture.removeIndex()
    try setup.fixture.open()
    try check("from the segments alone")
    try setup.journal.checkpoint()
    #expect(try setup.verify().flaws == [])
  }

  @Test(
    "of an empty and of an unchanged disk are whole, and what nobody wrote is a hole in them and in the disk")
  func nothingWritten() throws {
    let (setup, disk) = try setup()
    try disk.seal(as: "empty")
    try disk.seal(as: "unchanged")
    try setup.write(3..<4, 1, to: disk)
    try disk.seal(as: "one")
    for name in ["empty", "unchanged"] {
      #expect(try setup.shows(name, [Int](repeating: 0, count: 16)))
      let runs = try setup.journal.generation(of: "d", named: name).status(
        ByteRange(start: 0, end: Setup.byteCount), asWriter: false, limit: 10)
      #expect(runs == [StatusRun(byteCount: Setup.byteCount, isHole: true)])
    }
    let block = Setup.block
    #expect(
      try disk.status(ByteRange(start: 0, end: Setup.byteCount), asWriter: true, limit: 10) == [
        StatusRun(byteCount: 3 * block, isHole: true), StatusRun(byteCount: block, isHole: false),
        StatusRun(byteCount: 12 * block, isHole: true),
      ])
    let changes = try setup.journal.generation(of: "d", named: "one").changes(
      ByteRange(start: 0, end: Setup.byteCount), limit: 10)
    #expect(changes.map(\.byteCount) == [3 * block, block, 12 * block])
    #expect(changes.map(\.value) == [false, true, false])
    try setup.journal.checkpoint()
    #expect(try setup.verify().flaws == [])
  }

  @Test("writes that end inside sectors keep what an older checkpoint has around them")
  func edges() throws {
    let (setup, disk) = try setup()
    try setup.write(0..<2, 1, to: disk)
    try disk.seal(as: "a")
    try disk.write([7, 7, 7], at: 100)
    try disk.seal(as: "b")
    try disk.write([9], at: 511)
    try disk.writeZeroes(ByteRange(start: 600, end: 1200), mayTrim: true, durable: false).wake()
    var wanted = Setup.content(0, 1)
    #expect(try setup.view("a", 0..<1) == wanted)
    for index in 100..<103 { wanted[index] = 7 }
    #expect(try setup.view("b", 0..<1) == wanted)
    wanted[511] = 9
    for index in 600..<1200 { wanted[index] = 0 }
    #expect(try setup.view("live", 0..<1) == wanted)
  }

  @Test("names are taken once, and what cannot be sealed goes on as it was")
  func refusals() throws {
    let (setup, disk) = try setup()
    #expect(failure { try disk.seal() } == .usage, "a name is needed")
    try disk.seal(as: "a")
    for name in ["a", "live", "", "with space"] {
      #expect(failure { try disk.seal(as: name) } == .usage, "\(name)")
    }
    #expect(failure { _ = try setup.journal.begin("d", GenerationRequest(name: "b")) } == .usage)
    #expect(failure { try disk.end("enough") } == .usage)
    #expect(failure { try setup.journal.drop("a", of: "d") } == .usage, "the open one stands on it")
    let sealed = try setup.journal.generation(of: "d", named: "a")
    #expect(failure { try sealed.write([1], at: 0) } == .notPermitted)
    #expect(failure { try sealed.trim(Setup.range(0..<1), durable: false).wake() } == .notPermitted)
    #expect(failure { try sealed.release(Setup.range(0..<1)).wake() } == .notPermitted)
    try sealed.seal(as: "a")
    #expect(failure { try sealed.seal(as: "b") } == .usage)
    #expect(try setup.journal.status().disks[0].generations.map(\.state) == ["sealed", "arriving"])
    try setup.write(0..<1, 1, to: disk)
    #expect(try shows(disk, [1]))
  }

  @Test("a reader that waits for what nobody wrote is served zeroes by the seal, and later what is written")
  func parkedReader() throws {
    let (setup, disk) = try setup()
    let wakes = WakeCount()
    #expect(try disk.view(Setup.range(2..<3)) { wakes.add($0) } == nil)
    try disk.seal(as: "a")
    wakes.wait(for: 1)
    #expect(try disk.view(Setup.range(2..<3)) == [UInt8](repeating: 0, count: Int(Setup.block)))
    try setup.write(2..<3, 4, to: disk)
    #expect(try disk.view(Setup.range(2..<3)) == Setup.content(2, 4))
    #expect(wakes.all.count == 1)
    #expect(try setup.journal.status().parkedReads == 0)
  }

  @Test("what was released before a checkpoint stays so, and with tombstones kept takes no write")
  func releases() throws {
    let (setup, disk) = try setup()
    try setup.write(0..<4, 1, to: disk)
    disk.keepTombstones()
    try disk.release(Setup.range(1..<2)).wake()
    try disk.seal(as: "a")
    #expect(failure { _ = try setup.view("a", 1..<2) } == .notPermitted)
    try setup.write(0..<4, 2, to: disk)
    #expect(failure { _ = try disk.bytes(Setup.range(1..<2)) } == .notPermitted)
    #expect(try disk.bytes(Setup.range(2..<3)) == Setup.content(2, 2))
    try disk.release(Setup.range(2..<3)).wake()
    #expect(failure { _ = try disk.bytes(Setup.range(2..<3)) } == .notPermitted)
    #expect(try setup.view("a", 2..<3) == Setup.content(2, 1))
    try disk.seal(as: "b")
    try setup.journal.checkpoint()
    #expect(try setup.verify().flaws == [])
  }

  @Test("a tainted one is not sealed, and a checkpoint is not broken by what comes after it")
  func taint() throws {
    let setup = try setup().0
    try setup.write(0..<1, 1, to: setup.fixture.disk)
    try setup.fixture.disk.seal(as: "a")
    let key = setup.fixture.disk.key
    setup.fixture.crash()
    _ = try Journal.markTainted([key], in: setup.fixture.path)
    try setup.fixture.open()
    let again = setup.fixture.disk
    #expect(failure { try again.seal(as: "b") } == .failed)
    #expect(failure { _ = try again.bytes(Setup.range(0..<1)) } == .failed)
    #expect(try setup.view("a", 0..<1) == Setup.content(0, 1))
    #expect(try setup.journal.status().disks[0].generations.map(\.tainted) == [false, true])
  }

  @Test("a chain that grows too deep is flattened, and each of it is dropped without a loss to the others")
  func chains() throws {
    let setup = try setup().0
    var expected: [[Int]] = [[Int](repeating: 0, count: 16)]
    for index in 0..<14 {
      let first = UInt64(index * 3 % 14)
      try setup.write(first..<first + 2, index % 9 + 1, to: setup.fixture.disk)
      expected.append(expected[index])
      for block in Int(first)..<Int(first) + 2 { expected[index + 1][block] = index % 9 + 1 }
      try setup.fixture.disk.seal(as: "c\(index)")
      let all = try #require(try setup.journal.status().disks.first).generations
      var depth = 1
      var next = all.last?.base
      while let name = next {
        depth += 1
        next = all.first { $0.name == name }?.base
      }
      #expect(depth <= 9)
    }
    func check(_ when: String, _ left: [Int]) throws {
      for index in left {
        #expect(try setup.shows("c\(index)", expected[index + 1]), "\(when): \(index)")
      }
      #expect(try setup.shows("live", expected[14]), "\(when)")
    }
    var left = Array(0..<14)
    try check("at once", left)
    var random = SeededGenerator(seed: 5)
    while left.count > 1 {
      let index = Int.random(in: 0..<left.count - 1, using: &random)
      try setup.journal.drop("c\(left.remove(at: index))", of: "d")
      if left.count % 4 == 0 {
        _ = try setup.journal.upkeep()
        try setup.fixture.close()
        try setup.fixture.removeIndex()
        try setup.fixture.open()
      }
      if left.count % 4 == 1 { try check("\(left.count) left", [left[0]] + left.suffix(2)) }
    }
    try setup.journal.checkpoint()
    #expect(try setup.journal.livenessFlaw() == nil)
    #expect(try setup.verify().flaws == [])
  }

  @Test("retention keeps the newest sealed ones and the disk, each of them whole")
  func retention() throws {
    let (setup, disk) = try setup { $0.keptGenerations = 2 }
    for index in 1...6 {
      try setup.write(UInt64(index)..<UInt64(index) + 1, index, to: disk)
      try disk.seal(as: "c\(index)")
    }
    #expect(names(setup) == ["c5", "c6"])
    let last = [0, 1, 2, 3, 4, 5, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    #expect(try setup.shows("c6", last))
    #expect(try setup.shows("c5", last.map { $0 == 6 ? 0 : $0 }))
    #expect(try shows(disk, last))
    let status = try setup.journal.status().disks[0].generations
    #expect(status.map(\.base) == [nil, "c5", "c6"])
    try setup.journal.checkpoint()
    #expect(try setup.verify().flaws == [])
  }
}
