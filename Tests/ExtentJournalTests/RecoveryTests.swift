import Bytes
import ExtentJournal
import Foundation
import TestKit
import Testing

// Goal: what a journal finds when it is opened again: everything acknowledged, or a clear refusal.
// Method: real files; the journal is closed or abandoned, something is done to its files, and it is opened fixture.disk.

private let pattern = (0..<256 << 10).map { UInt8(truncatingIfNeeded: $0 / 13) }

private func overwrite(_ path: String, at offset: UInt64, _ bytes: [UInt8]) throws {
  let file = try FileHandle(forUpdating: URL(fileURLWithPath: path))
  try file.seek(toOffset: offset)
  try file.write(contentsOf: Data(bytes))
  try file.close()
}

@Suite struct RecoveryTests {
  private func filled(mode: DiskMode = .device) throws -> JournalFixture {
    let fixture = try JournalFixture()
    try fixture.makeDisk("d", byteCount: 16 << 20, mode: mode)
    try fixture.disk.write(pattern, at: 1 << 20)
    return fixture
  }

  private func content(_ fixture: JournalFixture) throws -> [UInt8] {
    try fixture.disk.bytes(
      ByteRange(offset: 1 << 20, count: 256 << 10))
  }

  @Test("what was only in the spool is there after a crash, and after a crash of the recovery")
  func spool() throws {
    let fixture = try filled()
    for _ in 0..<3 {
      fixture.crash()
      try fixture.open()
      #expect(try content(fixture) == pattern)
    }
    #expect(try fixture.journal.status().spilledThrough < fixture.journal.status().lastSequence)
    try fixture.close()
    #expect(fixture.ringPath == nil, "a clean close leaves a ring behind")
    try fixture.open()
    #expect(try content(fixture) == pattern)
  }

  @Test("the last commit wins, not the last reservation, also after a crash", arguments: [false, true])
  func commitOrder(spilled: Bool) throws {
    let fixture = try filled()
    let range = ByteRange(offset: 1 << 20, count: 256 << 10)
    do {
      let first = try fixture.disk.reserve(range)
      let second = try fixture.disk.reserve(range)
      first.memory.copyBytes(from: pattern.map { ~$0 })
      second.memory.initializeMemory(as: UInt8.self, repeating: 7)
      try second.commit(durable: false).wake()
      try first.commit(durable: false).wake()
    }
    if spilled { try fixture.journal.flush() }
    fixture.crash()
    try fixture.open()
    #expect(try content(fixture) == pattern.map { ~$0 })
  }

  @Test("a lost ring is refused, and accepted only when told to; snapshots are then tainted")
  func lostRing() throws {
    let fixture = try filled(mode: .snapshot)
    fixture.crash()
    try FileManager.default.removeItem(atPath: #require(fixture.ringPath))
    #expect(failure { try fixture.open() } == .damaged)
    fixture.options.acceptLoss = true
    try fixture.open()
    #expect(try fixture.journal.status().disks[0].generations[0].tainted)
  }

  @Test("an index that is gone or is rubbish is built again from the segments", arguments: [false, true])
  func lostIndex(rubbish: Bool) throws {
    let fixture = try filled()
    for piece in 0..<200 as Range<UInt64> {
      try fixture.disk.write(Array(pattern[..<512]), at: (8 << 20) + piece * 1024)
    }
    try fixture.disk.trim(ByteRange(offset: (8 << 20) + 1024, count: 4096), durable: false).wake()
    let before = try fixture.disk.bytes(ByteRange(offset: 0, count: 16 << 20))
    try fixture.close()
    let data = fixture.path + "/index/data.mdb"
    if rubbish {
      try Data(repeating: 0x5A, count: 65536).write(to: URL(fileURLWithPath: data))
    } else {
      try FileManager.default.removeItem(atPath: data)
    }
    try fixture.open()
    #expect(try fixture.disk.bytes(ByteRange(offset: 0, count: 16 << 20)) == before)
  }

  @Test("a torn tail is cut and the ring brings the batch back")
  func tornTail() throws {
    let fixture = try filled()
    try fixture.journal.flush()
    fixture.crash()
    // The segment ends in the middle of what a dying process was writing.
    let segment = try #require(fixture.segmentPaths.last)
    let size = try #require(FileManager.default.attributesOfItem(atPath: segment)[.size] as? Int)
    try overwrite(segment, at: UInt64(size), [UInt8](repeating: 0x11, count: 5000))
    try fixture.open()
    #expect(fixture.messages.all.contains { $0.contains("cut an unfinished batch") })
    #expect(try content(fixture) == pattern)
    // Batches behind the cut must not make it look like damage in the middle.
    try fixture.disk.write(Array(pattern[..<4096]), at: 8 << 20)
    try fixture.journal.flush()
    fixture.crash()
    try fixture.open()
    #expect(try content(fixture) == pattern)
  }

  @Test("a damaged superblock of the journal is refused")
  func superblock() throws {
    let fixture = try filled()
    try fixture.close()
    try overwrite(fixture.path + "/journal", at: 20, [1, 2, 3])
    #expect(failure { try fixture.open() } == .damaged)
  }

  @Test("a damaged frame fails the reads that need it, and no others")
  func damagedFrame() throws {
    let fixture = try filled()
    try fixture.journal.checkpoint()
    try fixture.disk.write(pattern, at: 4 << 20)
    try fixture.close()
    // Inside the first frame's stored bytes: behind the superblock and the frame's header.
    let segment = try #require(fixture.segmentPaths.first)
    let bytes = try Data(contentsOf: URL(fileURLWithPath: segment))
    let frame = try #require(bytes.range(of: Data("SPWF".utf8)))
    try overwrite(segment, at: UInt64(frame.lowerBound) + 100, [0xFF, 0xFE, 0xFD])
    try fixture.open()
    #expect(failure { _ = try fixture.disk.bytes(ByteRange(offset: 1 << 20, count: 256 << 10)) } == .damaged)
    #expect(fixture.messages.all.contains { $0.contains("bytes") && $0.contains("are damaged") })
    #expect(try fixture.disk.bytes(ByteRange(offset: 4 << 20, count: 256 << 10)) == pattern)
  }

  @Test("a second owner, another size and another mode are refused")
  func refusals() throws {
    let fixture = try filled()
    #expect(
      failure { _ = try Journal.open(fixture.path, options: fixture.options, log: { _, _ in }) } == .inUse)
    #expect(failure { _ = try fixture.journal.disk("d", byteCount: 1 << 20, mode: nil) } == .usage)
    #expect(failure { _ = try fixture.journal.disk("d", byteCount: nil, mode: .snapshot) } == .usage)
    #expect(failure { _ = try fixture.journal.disk("e", byteCount: nil, mode: nil) } == .usage)
    #expect(failure { _ = try fixture.journal.disk("e", byteCount: 1000, mode: nil) } == .usage)
  }

  @Test("a copy of a crashed journal cannot take the ring from under the journal that uses it")
  func copies() throws {
    let fixture = try filled()
    fixture.crash()
    let copy = fixture.directory.file("copy")
    try FileManager.default.copyItem(atPath: fixture.path, toPath: copy)
    try fixture.open()
    #expect(failure { _ = try Journal.open(copy, options: fixture.options, log: { _, _ in }) } == .inUse)
    #expect(try content(fixture) == pattern)
  }

  @Test("a disk whose making was cut off is finished, and keeps what shares a batch with its beginning")
  func halfMadeDisk() throws {
    let directory = try TemporaryDirectory()
    let segments = SimulatedDisk(seed: 1)
    var host = JournalHost()
    host.segments = segments
    var options = JournalOptions()
    options.spoolDirectory = directory.path
    options.spoolByteCount = 16 << 20
    var journal: Journal?
    func restart() throws {
      journal?.abandon()
      journal = nil
      segments.powerOn()
      journal = try Journal.open(directory.file("j"), options: options, host: host, log: { _, _ in })
    }
    try restart()
    // The disk's records are in the ring and true when its flush fails; other threads may ask for the names of the segments first.
    for count in 0..<4 { segments.plant(.inputOutput, after: count) }
    #expect(failure { _ = try journal?.disk("d", byteCount: 1 << 20, mode: .device) } == .failed)
    try restart()
    try journal?.disk("d", byteCount: nil, mode: nil).write(Array(pattern[..<4096]), at: 8192)
    try journal?.flush()
    // Nothing is indexed: the next two find it in the segments alone.
    for _ in 0..<2 {
      try restart()
      let found = try journal?.disk("d", byteCount: nil, mode: nil).bytes(
        ByteRange(offset: 8192, count: 4096))
      #expect(found == Array(pattern[..<4096]))
    }
    journal?.abandon()
  }

  @Test("completion survives a crash")
  func completion() throws {
    let fixture = try filled()
    try fixture.disk.complete()
    fixture.crash()
    try fixture.open()
    #expect(fixture.disk.isComplete)
  }

  @Test("a replay of a closed journal has everything and is sparse, and spares a file that is not empty")
  func replay() throws {
    let fixture = try filled()
    try fixture.disk.writeZeroes(ByteRange(offset: 8 << 20, count: 1 << 20), mayTrim: false, durable: false)
      .wake()
    let content = try fixture.disk.bytes(ByteRange(offset: 0, count: 16 << 20))
    try fixture.close()
    let output = fixture.directory.file("out.raw")
    let report = try Replay.toRawFile(from: JournalReader.open(fixture.path), disk: "d", output: output)
    #expect(report.dataBytes == 256 << 10 && report.zeroBytes == 1 << 20)
    #expect(report.absentBytes == (16 << 20) - report.dataBytes - report.zeroBytes)
    let image = try Data(contentsOf: URL(fileURLWithPath: output))
    #expect(Array(image) == content)
    let blocks = try FileHandle(forReadingFrom: URL(fileURLWithPath: output))
    var status = stat()
    #expect(fstat(blocks.fileDescriptor, &status) == 0 && status.st_blocks * 512 < 1 << 20)
  }
}
