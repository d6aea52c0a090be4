import BlockFile
import Bytes
import ExtentJournal
import TestKit
import Testing
import Threads

// Goal: any number of readers of any kind beside a push get right bytes and hold nothing up, and a frame that many want
// at once is fetched once.
// Method: every word of the disk says where it is; readers of all kinds check each word while a push goes through a ring
// much smaller than it, with spills and index commits all the time. Reads of the segment files are counted behind the
// file waist.

private let diskByteCount: UInt64 = 24 << 20
private let pieceByteCount: UInt64 = 64 << 10
private let wordsPerPiece = pieceByteCount / 8

/// The word at `index` of the disk; never zero. Every eighth piece is not compressible.
private func word(_ index: UInt64) -> UInt64 {
  if index / wordsPerPiece % 8 == 0 { return (index &+ 1) &* 0x9e37_79b9_7f4a_7c15 | 1 }
  return index / 4 << 1 | 1
}

private func piece(_ number: UInt64) -> [UInt64] {
  (number * wordsPerPiece..<(number + 1) * wordsPerPiece).map(word)
}

/// The first byte of `bytes`, which were read at `offset`, that is not what the disk holds there.
private func firstWrong(_ bytes: [UInt8], at offset: UInt64) -> Int? {
  bytes.withUnsafeBytes { raw in
    var index = 0
    while index < raw.count {
      let place = offset + UInt64(index)
      if place % 8 == 0, index + 8 <= raw.count {
        if raw.loadUnaligned(fromByteOffset: index, as: UInt64.self) != word(place / 8) { return index }
        index += 8
      } else {
        if raw[index] != UInt8(truncatingIfNeeded: word(place / 8) >> (place % 8 * 8)) { return index }
        index += 1
      }
    }
    return nil
  }
}

/// Reads the view and waits for what has not arrived.
private func waitingRead(_ disk: Disk, _ range: ByteRange, owner: UInt64) throws -> [UInt8] {
  let wakes = WakeCount()
  var parked = 0
  while true {
    if let bytes = try disk.view(range, owner: owner, wake: wakes.add) { return bytes }
    parked += 1
    wakes.wait(for: parked)
  }
}

@Suite struct ReadStormTests {
  @Test(
    "readers of all kinds get right bytes while a push, spills and index commits go on",
    arguments: DiskMode.allCases)
  func everyKind(mode: DiskMode) throws {
    let fixture = try JournalFixture()
    try fixture.makeDisk("d", byteCount: diskByteCount, mode: mode)
    let disk = fixture.disk
    let journal = try #require(fixture.journal)
    let failures = JournalFixture.Messages()
    let isDone = Flag()
    var readers: [WorkerThread] = []
    func start(_ name: String, _ body: @escaping @Sendable (_ random: inout SeededGenerator) throws -> Void)
      throws
    {
      let seed = UInt64(readers.count)
      readers.append(
        try #require(
          WorkerThread(name: name) {
            var random = SeededGenerator(seed: seed)
            if case .failure(let error) = Result(catching: { try body(&random) }) {
              failures.add("\(name): \(error)")
            }
          }))
    }
    @Sendable func check(_ bytes: [UInt8], _ range: ByteRange, _ name: String) {
      if let wrong = firstWrong(bytes, at: range.start) {
        failures.add("\(name): byte \(range.start + UInt64(wrong))")
      }
    }

    for (name, size) in [
      ("whole-64K", 64 << 10), ("whole-1M", 1 << 20), ("whole-4M-and-a-bit", 4 << 20 + 77),
    ] as [(String, UInt64)] {
      try start(name) { _ in
        let owner = disk.newOwner()
        for start in stride(from: 0, to: diskByteCount, by: Int(size)) {
          let range = ByteRange(start: start, end: min(diskByteCount, start + size))
          check(try waitingRead(disk, range, owner: owner), range, name)
        }
      }
    }
    for number in 0..<3 {
      try start("random-\(number)") { random in
        let owner = disk.newOwner()
        for _ in 0..<250 {
          // Unaligned, so that edges of sectors and of frames are met.
          let count = UInt64.random(in: 1...8192, using: &random)
          let range = ByteRange(offset: .random(in: 0...diskByteCount - count, using: &random), count: count)
          check(try waitingRead(disk, range, owner: owner), range, "random-\(number)")
        }
      }
    }
    try start("ingest") { random in
      while !isDone.isSet {
        let number = UInt64.random(in: 0..<diskByteCount / pieceByteCount, using: &random)
        let range = ByteRange(offset: number * pieceByteCount, count: pieceByteCount)
        // Absent is zeroes on a device and an error on a snapshot; a piece is there as a whole or not at all.
        guard case .success(let bytes) = Result(catching: { try disk.bytes(range) }) else { continue }
        if mode == .device, bytes.allSatisfy({ $0 == 0 }) { continue }
        check(bytes, range, "ingest")
      }
    }
    try start("status") { random in
      while !isDone.isSet {
        let range = ByteRange(
          offset: .random(in: 0..<diskByteCount / 2, using: &random), count: diskByteCount / 2)
        let runs = try disk.status(range, asWriter: false, limit: 1000)
        if runs.contains(where: \.isHole) || runs.reduce(0, { $0 + $1.byteCount }) != range.count {
          failures.add("status: \(runs.prefix(3))")
        }
      }
    }
    for (name, body) in [("checkpoints", journal.checkpoint), ("spills", journal.spill)] {
      try start(name) { _ in while !isDone.isSet { try body() } }
    }

    var random = SeededGenerator(seed: 99)
    for number in (0..<diskByteCount / pieceByteCount).shuffled(using: &random) {
      let slot = try disk.reserve(ByteRange(offset: number * pieceByteCount, count: pieceByteCount))
      piece(number).withUnsafeBytes { slot.memory.copyMemory(from: $0) }
      try slot.commit(durable: false).wake()
    }
    for reader in readers.prefix(6) { reader.join() }
    isDone.set()
    for reader in readers.dropFirst(6) { reader.join() }
    #expect(failures.all.isEmpty, "\(failures.all.prefix(5))")
    #expect(try fixture.journal.status().parkedReads == 0)
    #expect(try fixture.journal.status().waitedReads > 0, "nobody had to wait")
  }

  @Test("a frame that four readers want at once is fetched once")
  func singleFlight() throws {
    let fixture = try JournalFixture()
    let count: UInt64 = 100
    try fixture.makeDisk("d", byteCount: diskByteCount, mode: .device)
    for number in 0..<count {
      // Every other piece, so that each is a frame of its own.
      let bytes = piece(number * 2).withUnsafeBytes { Array($0) }
      try fixture.disk.write(bytes, at: number * 2 * pieceByteCount)
    }
    try fixture.close()
    let store = CountingStore(POSIXDirectory(path: fixture.path + "/segments"))
    fixture.host.segments = store
    try fixture.open()
    let disk = fixture.disk
    let failures = JournalFixture.Messages()
    let before = store.readCount
    let meeting = Meeting()
    var order = SeededGenerator(seed: 1)
    let numbers = (0..<count).shuffled(using: &order)
    var readers: [WorkerThread] = []
    for reader in 0..<4 {
      readers.append(
        try #require(
          WorkerThread(name: "reader-\(reader)") {
            for number in numbers {
              meeting.meet(4)
              let range = ByteRange(offset: number * 2 * pieceByteCount, count: pieceByteCount)
              let bytes = Result { try disk.bytes(range) }
              guard case .success(let bytes) = bytes, firstWrong(bytes, at: range.start) == nil else {
                failures.add("piece \(number)")
                continue
              }
            }
          }))
    }
    for reader in readers { reader.join() }
    #expect(failures.all.isEmpty, "\(failures.all.prefix(5))")
    #expect(store.readCount - before == Int(count))
  }
}
