import Bytes
import ExtentJournal
import Foundation
import TestKit
import Testing

// Goal: whatever happens to a disk and its generations, in whatever order, every one of them shows what was written to it
// and what its base shows, and nothing else.
// Method: random histories against a model, an array of sectors for each generation; kills, closes, lost indexes and
// checkpoints in between. Seeds are printed, and the same seed is the same history.

@Suite struct GenerationHistoryTests {
  @Test(
    "random histories of generations agree with a model, through kills, closes and lost indexes",
    arguments: seeds(3))
  func histories(seed: UInt64) throws {
    print("generation history: seed \(seed)")
    var history = try GenerationHistory(seed: seed)
    try history.run()
  }
}

/// A disk of 20 regions, so that range rows are among its rows, and what it should show.
private struct GenerationHistory {
  private static let sectorCount = 20 << 10

  /// What one generation has of its own.
  private struct Model {
    enum Sector: Equatable {
      case absent, base
      /// The byte that fills it; 0: zeroes.
      case own(UInt8)
    }
    var sectors = [Sector](repeating: .absent, count: GenerationHistory.sectorCount)
    var base: String?
    var state = State.open
    enum State { case open, preSealed, sealed, ended }
    /// First and end of what an incremental one brings.
    var bitmap = 0..<GenerationHistory.sectorCount
  }

  private let seed: UInt64
  private var random: SeededGenerator
  private let fixture: JournalFixture
  private var models: [String: Model] = [:]
  private var names: [String] = []

  init(seed: UInt64) throws {
    self.seed = seed
    random = SeededGenerator(seed: seed)
    fixture = try JournalFixture()
    try fixture.makeDisk("d", byteCount: UInt64(Self.sectorCount) * 512, mode: .snapshot)
    try begin()
  }

  private var note: String { "seed \(seed), \(names.last ?? "")" }
  private var open: Disk { get throws { try fixture.journal.generation(of: "d", named: "live") } }

  mutating func run() throws {
    for _ in 0..<120 {
      let name = names[names.count - 1]
      guard let model = models[name] else { return }
      switch (model.state, Int.random(in: 0..<20, using: &random)) {
      case (.sealed, 0..<14), (.ended, 0..<14): try begin()
      case (.open, 0..<7), (.preSealed, 0..<3): try write(name)
      case (.open, 7..<10): try recordBitmap(name)
      case (.open, 10..<13): try finish(name)
      case (.preSealed, 3..<12):
        try open.seal()
        models[name]?.state = .sealed
      case (.open, 13) where Bool.random(using: &random), (.preSealed, 13):
        try open.end("because")
        models[name]?.state = .ended
      case (_, 14..<16): try fixture.journal.checkpoint()
      case (_, 16): try restart(byCrash: true, losingIndex: Bool.random(using: &random))
      case (_, 17): try restart(byCrash: false, losingIndex: Bool.random(using: &random))
      default: try check()
      }
    }
    try check()
    try fixture.close()
    let report = try Verification.run(on: JournalReader.open(fixture.path), progress: { _, _ in })
    #expect(report.flawCount == 0, "\(note): \(report.flaws)")
    let sealed = models.values.count { $0.state == .sealed || $0.state == .preSealed }
    print(
      "generation history: seed \(seed): \(names.count) generations, \(sealed) sealed, \(models.values.count { $0.base != nil }) incremental"
    )
    #expect(report.seals >= UInt64(sealed), "\(note)")
  }

  // MARK: - Steps

  private mutating func begin() throws {
    let name = "g\(names.count)"
    let bases = names.filter { models[$0]?.state == .sealed }
    var model = Model()
    var request = GenerationRequest(name: name, tag: "tag of \(name)")
    if let base = bases.randomElement(using: &random), Int.random(in: 0..<5, using: &random) > 0 {
      let start = Int.random(in: 0..<Self.sectorCount, using: &random)
      model.base = base
      model.bitmap = start..<Int.random(in: start...Self.sectorCount, using: &random)
      request.kind = .incremental
      request.base = base
    }
    _ = try fixture.journal.begin("d", request)
    names.append(name)
    models[name] = model
  }

  /// Writes or zeroes some of what has not arrived, inside the bitmap; or says again what has.
  private mutating func write(_ name: String) throws {
    guard var model = models[name], !model.bitmap.isEmpty else { return }
    let start = Int.random(in: model.bitmap, using: &random)
    let end = min(model.bitmap.upperBound, start + Int.random(in: 1...600, using: &random))
    let fill = Bool.random(using: &random) ? UInt8.random(in: 1...255, using: &random) : 0
    var bytes = [UInt8](repeating: fill, count: (end - start) * 512)
    var isAllZero = true
    for sector in start..<end {
      if model.sectors[sector] == .absent { model.sectors[sector] = .own(fill) }
      guard case .own(let byte) = model.sectors[sector] else { continue }
      isAllZero = isAllZero && byte == 0
      if byte != fill {
        let from = (sector - start) * 512
        bytes.replaceSubrange(from..<from + 512, with: repeatElement(byte, count: 512))
      }
    }
    let range = ByteRange(start: UInt64(start) * 512, end: UInt64(end) * 512)
    if isAllZero, Bool.random(using: &random) {
      try open.writeZeroes(range, mayTrim: Bool.random(using: &random), durable: false).wake()
    } else {
      try open.write(bytes, at: range.start)
    }
    models[name] = model
  }

  /// Records some of what is outside the bitmap, over the edges of what arrived too.
  private mutating func recordBitmap(_ name: String) throws {
    guard let model = models[name], model.base != nil else { return }
    let outside = [0..<model.bitmap.lowerBound, model.bitmap.upperBound..<Self.sectorCount].filter {
      !$0.isEmpty
    }
    guard let side = outside.randomElement(using: &random) else { return }
    let start = Int.random(in: side, using: &random)
    try fall(name, start..<Int.random(in: start...side.upperBound, using: &random))
  }

  private mutating func fall(_ name: String, _ sectors: Range<Int>) throws {
    try open.fallToBase([
      ByteRange(start: UInt64(sectors.lowerBound) * 512, end: UInt64(sectors.upperBound) * 512)
    ])
    for sector in sectors where models[name]?.sectors[sector] == .absent {
      models[name]?.sectors[sector] = .base
    }
  }

  /// Brings everything that is missing, and pre-seals.
  private mutating func finish(_ name: String) throws {
    guard var model = models[name] else { return }
    if model.base != nil {
      #expect(failure { try open.preSeal(job: name) } != nil, "\(note): without its bitmap")
      try fall(name, 0..<model.bitmap.lowerBound)
      try fall(name, model.bitmap.upperBound..<Self.sectorCount)
      try open.finishBitmap()
      model = models[name] ?? model
    }
    var sector = model.bitmap.lowerBound
    while sector < model.bitmap.upperBound {
      let first = sector
      while sector < model.bitmap.upperBound, model.sectors[sector] == .absent {
        model.sectors[sector] = .own(0)
        sector += 1
      }
      if sector > first {
        let range = ByteRange(start: UInt64(first) * 512, end: UInt64(sector) * 512)
        try open.writeZeroes(range, mayTrim: true, durable: false).wake()
      }
      sector += 1
    }
    // Said again when everything has arrived it changes nothing.
    if model.base != nil { try open.fallToBase([ByteRange(start: 0, end: open.byteCount)]) }
    try open.preSeal(job: name)
    model.state = .preSealed
    models[name] = model
  }

  private mutating func restart(byCrash: Bool, losingIndex: Bool) throws {
    if byCrash { fixture.crash() } else { try fixture.close() }
    if losingIndex { try fixture.removeIndex() }
    try fixture.open()
    #expect(try fixture.journal.status().damage == nil, "\(note)")
    try check()
  }

  // MARK: - Looking

  /// What each sector of `name` shows; nil: nothing yet, or never.
  private func expected(_ name: String) -> [UInt8?] {
    guard let model = models[name] else { return [] }
    let below = model.base.map(expected) ?? []
    return model.sectors.enumerated().map { index, sector in
      switch sector {
      case .absent: nil
      case .base: below[index]
      case .own(let byte): byte
      }
    }
  }

  private mutating func check() throws {
    for name in names.suffix(4) {
      guard let model = models[name] else { continue }
      let disk = try fixture.journal.generation(of: "d", named: name)
      #expect(disk.taintReason == nil && disk.tag == "tag of \(name)", "\(note)")
      #expect(disk.isPreSealed == (model.state == .preSealed), "\(note): \(name)")
      #expect(disk.isSealed == (model.state == .sealed), "\(note): \(name)")
      #expect(disk.isClosed == (model.state == .sealed || model.state == .ended), "\(note): \(name)")
      let expected = expected(name)
      for _ in 0..<6 {
        let start = Int.random(in: 0..<Self.sectorCount, using: &random)
        let end = min(Self.sectorCount, start + Int.random(in: 1...1500, using: &random))
        try check(disk, start..<end, expected[start..<end], isClosed: disk.isClosed, name)
      }
    }
  }

  private func check(
    _ disk: Disk, _ sectors: Range<Int>, _ expected: ArraySlice<UInt8?>, isClosed: Bool, _ name: String
  ) throws {
    let range = ByteRange(start: UInt64(sectors.lowerBound) * 512, end: UInt64(sectors.upperBound) * 512)
    let place = "\(note): sectors \(sectors) of \(name)"
    guard !expected.contains(nil) else {
      let owner = disk.newOwner()
      let outcome = Result { try disk.view(range, owner: owner) }
      disk.dropParked(owner: owner)
      switch outcome {
      case .success(let bytes): #expect(bytes == nil && !isClosed, "\(place) were read")
      case .failure: #expect(isClosed, "\(place) failed")
      }
      return
    }
    let bytes = try disk.view(range)
    let wanted = expected.flatMap { [UInt8](repeating: $0 ?? 0, count: 512) }
    #expect(bytes == wanted, "\(place)")
    let runs = try disk.status(range, asWriter: false, limit: .max - 1)
    var at = sectors.lowerBound
    for run in runs {
      let end = at + Int(run.byteCount / 512)
      if run.isHole { #expect(expected[at..<end].allSatisfy { $0 == 0 }, "\(place): a hole") }
      at = end
    }
    #expect(at == sectors.upperBound, "\(place)")
  }
}
