import Bytes
import ExtentJournal
import TestKit
import Testing

// Goal: a device disk in the journal holds what an array of bytes would, whatever the journal does underneath.
// Method: seeded random writes (aligned and not), zeroes, trims, reads, flushes, checkpoints, and reopenings after a
// close and after an abandoned process, with rings, small and large, against the model; at the end the index is thrown
// away, and the segments alone must say the same.

private struct History {
  var seed: UInt64
  var random: SeededGenerator
  let directory: TemporaryDirectory
  var options = JournalOptions()
  var journal: Journal!
  var disk: Disk!
  var model: ModelDisk
  static let sectorCount = 6000  // 3 MiB: six regions, so that rows fill, split and merge

  init(seed: UInt64) throws {
    self.seed = seed
    random = SeededGenerator(seed: seed)
    directory = try TemporaryDirectory()
    options.spoolDirectory = directory.path
    options.spoolByteCount = 16 << 20
    journal = try Journal.open(directory.file("j"), options: options, log: { _, _ in })
    model = ModelDisk(sectorCount: Self.sectorCount)
    disk = try journal.disk("d", byteCount: model.byteCount, mode: .device)
  }

  mutating func range(_ longest: UInt64, aligned: Bool) -> ByteRange {
    let unit: UInt64 = aligned ? 512 : 1
    let count = UInt64.random(in: 1...longest / unit, using: &random) * unit
    let start = UInt64.random(in: 0...(model.byteCount - count) / unit, using: &random) * unit
    return ByteRange(offset: start, count: count)
  }

  mutating func payload(_ count: UInt64) -> [UInt8] {
    switch Int.random(in: 0..<4, using: &random) {
    case 0: return [UInt8](repeating: 0, count: Int(count))
    case 1: return (0..<count).map { _ in UInt8.random(in: 0 ... .max, using: &random) }
    default:
      let word = UInt8.random(in: 1 ... .max, using: &random)
      return (0..<count).map { UInt8(truncatingIfNeeded: $0 / 40) ^ word }
    }
  }

  mutating func step() throws {
    switch Int.random(in: 0..<100, using: &random) {
    case 0..<35: try write(range(Bool.random(using: &random) ? 4096 : 200_000, aligned: true))
    case 35..<50: try write(range(3000, aligned: false))
    case 50..<60: try zero(range(300_000, aligned: Bool.random(using: &random)))
    case 60..<68: try trim(range(300_000, aligned: Bool.random(using: &random)))
    case 68..<92: try check(range(400_000, aligned: Bool.random(using: &random)))
    case 92..<95: try journal.flush()
    case 95..<97: try journal.checkpoint()
    case 97..<98: try reopen(cleanly: true)
    default: try reopen(cleanly: false)
    }
  }

  mutating func write(_ range: ByteRange) throws {
    let bytes = payload(range.count)
    let slot = try disk.reserve(range)
    slot.memory.copyBytes(from: bytes)
    if Int.random(in: 0..<20, using: &random) == 0 { return slot.abandon() }
    try slot.commit(durable: Int.random(in: 0..<30, using: &random) == 0).wake()
    model.write(bytes, at: range.start)
  }

  mutating func zero(_ range: ByteRange) throws {
    try disk.writeZeroes(range, mayTrim: Bool.random(using: &random), durable: false).wake()
    model.zero(range)
  }

  mutating func trim(_ range: ByteRange) throws {
    try disk.trim(range, durable: false).wake()
    model.trim(range)
  }

  func check(_ range: ByteRange) throws {
    let buffer = AlignedBuffer(byteCount: Int(range.count))
    var span = buffer.mutableBytes
    let runs = try disk.readIngest(range, into: &span)
    let wanted = model.read(range)
    #expect(Array(buffer.raw) == wanted, "seed \(seed): bytes \(range.start) to \(range.end)")
    #expect(runs.first?.range.start == range.start && runs.last?.range.end == range.end)
    for run in runs where run.isZero {
      #expect(model.read(run.range).allSatisfy { $0 == 0 }, "seed \(seed)")
    }
  }

  mutating func reopen(cleanly: Bool) throws {
    if cleanly { try journal.close() } else { journal.abandon() }
    // The lock and the index go with the last reference.
    journal = nil
    disk = nil
    journal = try Journal.open(directory.file("j"), options: options, log: { _, _ in })
    disk = try journal.disk("d", byteCount: nil, mode: nil)
  }

  func checkAll() throws {
    try check(ByteRange(start: 0, end: model.byteCount))
  }
}

@Suite struct JournalModelTests {
  @Test("a region that was in pieces and is whole again reads as the last write said, from the index alone")
  func fragments() throws {
    let fixture = try JournalFixture()
    try fixture.makeDisk("d", byteCount: 2 << 20, mode: .device)
    var model = ModelDisk(sectorCount: 4096)
    func write(_ byte: UInt8, _ offset: UInt64, _ count: Int) throws {
      let bytes = [UInt8](repeating: byte, count: count)
      try fixture.disk.write(bytes, at: offset)
      model.write(bytes, at: offset)
    }
    func check(_ what: String) throws {
      try fixture.journal.checkpoint()
      try fixture.close()
      try fixture.open()
      let whole = ByteRange(offset: 0, count: 2 << 20)
      #expect(try fixture.disk.bytes(whole) == model.read(whole), "\(what)")
    }
    // 512 pieces in each of the four regions: their rows split.
    for sector in 0..<2048 as Range<UInt64> { try write(UInt8(sector % 255) + 1, sector * 1024, 512) }
    try check("in pieces")
    // One region becomes whole, one half, one is trimmed: the split rows must go or shrink.
    try write(0xAA, 0, 512 << 10)
    try write(0xBB, 512 << 10, 256 << 10)
    try fixture.disk.trim(ByteRange(offset: 1 << 20, count: 512 << 10), durable: false).wake()
    model.trim(ByteRange(offset: 1 << 20, count: 512 << 10))
    try check("whole again")
    try write(0xCC, 4096, 4096)
    try check("written once more")
  }

  @Test("a disk holds what an array would, through reopenings and crashes", arguments: seeds(8))
  func histories(seed: UInt64) throws {
    var history = try History(seed: seed)
    for _ in 0..<400 { try history.step() }
    try history.checkAll()
    try history.reopen(cleanly: true)
    try history.checkAll()
  }
}
