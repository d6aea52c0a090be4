import Bytes
import ExtentJournal
import Foundation
import TestKit
import Testing

// Goal: the past of a disk with generations is exact as well: what the newest one showed of its own and of its base, before
// and after seals, releases and drops, while upkeep gives back what the present needs no more.
// Method: random histories against a model of blocks; after each operation the model notes what the newest generation shows
// at the last sequence. Every such sequence that ends a batch behind the horizon is compared.

@Suite struct PastGenerationTests {
  @Test("the past of generations is what the newest one showed", arguments: 0..<4)
  func histories(share: Int) throws {
    let all = seeds(8)
    for seed in all where Int(seed % 4) == share {
      do {
        var history = try PastGenerations(seed: seed)
        for _ in 0..<70 { try history.step() }
        try history.check(isThorough: true)
        print("seed \(seed): \(history.compared) compared, \(history.drops) drops")
        if all.count >= 8 { #expect(history.compared > 5) }
      } catch {
        Issue.record(
          """
          \(error)
          run it again: SPILLWAY_TEST_SEED=\(seed) swift test --disable-xctest --filter PastGenerationTests/histories
          """)
      }
    }
  }
}

private struct PastGenerations {
  private enum Block: Equatable {
    case absent, base, released
    /// The version that was written; 0: zeroes.
    case own(Int)
  }

  private struct Model {
    var name: String
    var base: String?
    var isSealed = false
    var isClosed = false
    var blocks = [Block](repeating: .absent, count: Int(GenerationSetup.blockCount))
  }

  private let seed: UInt64
  private var random: SeededGenerator
  private let setup: GenerationSetup
  private var models: [Model] = []
  private var moments: [UInt64: [Block]] = [:]
  private var version = 0
  private var count = 0
  private(set) var compared = 0
  private(set) var drops = 0

  init(seed: UInt64) throws {
    self.seed = seed
    random = SeededGenerator(seed: seed)
    setup = try GenerationSetup { options in
      options.history = seed / 4 % 3 == 0 ? .bytes(512 << 10) : .all
    }
    try setup.fixture.close()
    setup.fixture.host.segmentBytesMax = 256 << 10
    setup.fixture.host.upkeepLimits.punchedBytesMin = 4 << 10
    setup.fixture.host.upkeepLimits.retiredBytesMin = 20 << 10
    setup.fixture.host.upkeepLimits.compactedBytesMin = 0
    setup.fixture.host.upkeepLimits.overheadBytes = 16 << 10
    setup.fixture.host.upkeepLimits.slackBytes = 0
    setup.fixture.host.upkeepLimits.sealedBytesMin = 12 << 10
    setup.fixture.host.upkeepLimits.coldNanoseconds = 0
    try setup.fixture.open()
    try begin()
  }

  private var open: Disk { get throws { try setup.journal.generation(of: "d", named: "live") } }

  mutating func step() throws {
    let last = models.count - 1
    switch Int.random(in: 0..<24, using: &random) {
    case 0..<8 where !models[last].isClosed: try write()
    case 8..<12 where !models[last].isClosed: try seal()
    case 12 where !models[last].isClosed:
      try open.end("because")
      models[last].isClosed = true
    case 0..<12: try begin()
    case 13..<15: try release()
    case 15..<17: try drop()
    case 17: try setup.journal.flush()
    case 18: try setup.journal.checkpoint()
    case 19..<22: _ = try setup.journal.upkeep(recompresses: Bool.random(using: &random))
    case 22:
      setup.fixture.crash()
      try setup.fixture.open()
    default:
      try setup.fixture.close()
      try setup.fixture.open()
    }
    try note()
    if Int.random(in: 0..<3, using: &random) == 0 { try check(isThorough: false) }
  }

  private mutating func note() throws {
    try setup.journal.spill()
    moments[try setup.journal.status().lastSequence] = resolved(models.count - 1)
  }

  private func resolved(_ index: Int) -> [Block] {
    let model = models[index]
    let below = models.firstIndex { $0.name == model.base }.map(resolved) ?? []
    return model.blocks.enumerated().map { $0.element == .base ? below[$0.offset] : $0.element }
  }

  private mutating func begin() throws {
    count += 1
    var model = Model(name: "g\(count)")
    if let base = models.filter(\.isSealed).randomElement(using: &random), count % 4 > 0 {
      model.base = base.name
      let start = UInt64.random(in: 0..<GenerationSetup.blockCount, using: &random)
      let end = UInt64.random(in: start...GenerationSetup.blockCount, using: &random)
      _ = try setup.incremental(model.name, on: base.name, bitmap: start..<end)
      for index in model.blocks.indices where !(start..<end).contains(UInt64(index)) {
        model.blocks[index] = .base
      }
    } else {
      _ = try setup.journal.begin("d", GenerationRequest(name: model.name))
    }
    models.append(model)
  }

  private mutating func write() throws {
    let last = models.count - 1
    let absent = models[last].blocks.indices.filter { models[last].blocks[$0] == .absent }
    guard let index = absent.randomElement(using: &random) else { return }
    let isZero = Int.random(in: 0..<5, using: &random) == 0
    version = version % 9 + 1
    let block = UInt64(index)
    if isZero {
      try open.writeZeroes(
        GenerationSetup.range(block..<block + 1), mayTrim: Bool.random(using: &random), durable: false
      ).wake()
    } else {
      try setup.write(block..<block + 1, version, to: open)
    }
    models[last].blocks[index] = .own(isZero ? 0 : version)
  }

  private mutating func seal() throws {
    let last = models.count - 1
    version = version % 9 + 1
    for index in models[last].blocks.indices where models[last].blocks[index] == .absent {
      try setup.write(UInt64(index)..<UInt64(index) + 1, version, to: open)
      models[last].blocks[index] = .own(version)
    }
    try open.seal()
    (models[last].isSealed, models[last].isClosed) = (true, true)
  }

  /// Of a generation on which none stands.
  private mutating func release() throws {
    let free = models.indices.filter { index in !models.contains { $0.base == models[index].name } }
    guard let chosen = free.randomElement(using: &random) else { return }
    let index = Int.random(in: models[chosen].blocks.indices, using: &random)
    let block = UInt64(index)
    let disk = try setup.journal.generation(of: "d", named: models[chosen].name)
    try disk.release(GenerationSetup.range(block..<block + 1)).wake()
    models[chosen].blocks[index] = .released
  }

  private mutating func drop() throws {
    let free = models.indices.dropLast().filter { index in
      models[index].isClosed && models.allSatisfy { $0.base != models[index].name || $0.isClosed }
    }
    guard let chosen = free.randomElement(using: &random) else { return }
    let dropped = models[chosen]
    try setup.journal.drop(dropped.name, of: "d")
    drops += 1
    for index in models.indices where models[index].base == dropped.name {
      for block in models[index].blocks.indices where models[index].blocks[block] == .base {
        models[index].blocks[block] = dropped.blocks[block]
      }
      models[index].base = dropped.base
    }
    models.remove(at: chosen)
  }

  mutating func check(isThorough: Bool) throws {
    if let flaw = try setup.journal.livenessFlaw() { throw Violation("seed \(seed): \(flaw)") }
    let ends = try setup.journal.batchEnds().ends.map(\.sequence).filter { moments[$0] != nil }
    let chosen = isThorough ? ends : Array(ends.shuffled(using: &random).prefix(2))
    for sequence in chosen {
      guard let blocks = moments[sequence] else { continue }
      let place = "seed \(seed), generation \(models.last?.name ?? ""), sequence \(sequence)"
      let past: PastDisk
      do { past = try setup.journal.disk("d", at: sequence) } catch {
        throw Violation("\(place): \(error.message)", error)
      }
      for (index, block) in blocks.enumerated() {
        let found = try self.block(index, of: past, place)
        guard found == block else { throw Violation("\(place): block \(index) is \(found), not \(block)") }
      }
      compared += 1
    }
  }

  private static let zeroes = [UInt8](repeating: 0, count: Int(GenerationSetup.block))
  private static let contents = (0..<GenerationSetup.blockCount).map { index in
    (1...9).map { GenerationSetup.content(index, $0) }
  }

  private static func versions(of index: Int) -> [[UInt8]] { contents[index] }

  private func block(_ index: Int, of past: PastDisk, _ place: String) throws -> Block {
    let range = GenerationSetup.range(UInt64(index)..<UInt64(index) + 1)
    let buffer = AlignedBuffer(byteCount: Int(range.count))
    var target = buffer.mutableBytes
    do {
      _ = try past.read(range, into: &target)
    } catch {
      switch error.kind {
      case .notPermitted: return .released
      case .failed where error.message.contains("had not arrived"): return .absent
      default: throw Violation("\(place): block \(index): \(error.message)", error)
      }
    }
    let bytes = Array(buffer.raw)
    if bytes[0] == 0 { return .own(bytes.elementsEqual(Self.zeroes) ? 0 : -1) }
    return .own(Self.versions(of: index).firstIndex(of: bytes).map { $0 + 1 } ?? -1)
  }
}
