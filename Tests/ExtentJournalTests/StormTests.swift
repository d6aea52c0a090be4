import Bytes
import ExtentJournal
import TestKit
import Testing
import Threads

// Goal: whoever reads while the ring is reused, batches are published and the index is committed sees, for each block,
// one whole version of it, and never an older one than it saw before.
// Method: a ring of 16 MiB under 70 MiB of writes to 12 blocks; every word of a block says which block and version it
// is. Readers check each word; a writer's own read must see its last write.

private let blockByteCount = 64 << 10
private let blocks: UInt64 = 12

private func content(_ block: UInt64, _ version: UInt64) -> [UInt64] {
  // The words differ along the block, so that a shifted copy shows.
  (0..<UInt64(blockByteCount / 8)).map { block << 48 | version << 16 | $0 }
}

@Suite struct StormTests {
  @Test("readers see whole blocks, never older ones, while everything moves underneath")
  func storm() throws {
    let fixture = try JournalFixture()
    try fixture.makeDisk("d", byteCount: blocks * UInt64(blockByteCount), mode: .device)
    let disk = fixture.disk
    let failures = JournalFixture.Messages()
    let isDone = Flag()
    for block in 0..<blocks { try write(disk, block, 1) }

    var threads: [WorkerThread] = []
    for reader in 0..<3 as Range<UInt64> {
      threads.append(
        try #require(
          WorkerThread(name: "reader-\(reader)") {
            var random = SeededGenerator(seed: reader)
            var seen = [UInt64](repeating: 0, count: Int(blocks))
            while !isDone.isSet {
              let block = UInt64.random(in: 0..<blocks, using: &random)
              guard let version = check(disk, block, failures) else { return }
              if version < seen[Int(block)] { failures.add("block \(block) went back to version \(version)") }
              seen[Int(block)] = version
            }
          }))
    }
    // Threads of their own, so that batches are published while the index is committed.
    let journal = try #require(fixture.journal)
    for (name, body) in [("checkpoints", journal.checkpoint), ("spills", journal.spill)] {
      threads.append(
        try #require(
          WorkerThread(name: name) {
            while !isDone.isSet {
              if case .failure(let error) = Result(catching: { try body() }) { failures.add("\(error)") }
            }
          }))
    }
    var random = SeededGenerator(seed: 77)
    var versions = [UInt64](repeating: 1, count: Int(blocks))
    for step in 0..<1000 {
      let block = UInt64.random(in: 0..<blocks, using: &random)
      versions[Int(block)] += 1
      try write(disk, block, versions[Int(block)])
      if step % 10 == 0 { #expect(check(disk, block, failures) == versions[Int(block)]) }
    }
    isDone.set()
    for thread in threads { thread.join() }
    #expect(failures.all.isEmpty, "\(failures.all.prefix(5))")
    let status = try fixture.journal.status()
    #expect(status.spilledThrough > 500, "nothing moved")
  }

  @Test(
    "writers and zeroers of the same regions get through a full ring, on both kinds of disk",
    arguments: DiskMode.allCases)
  func fullRing(mode: DiskMode) throws {
    let fixture = try JournalFixture()
    try fixture.makeDisk("d", byteCount: 256 << 20, mode: mode)
    let disk = fixture.disk
    let failures = JournalFixture.Messages()
    // The ring takes 16 MiB; 4 x 24 MiB of reservations and zeroes in all regions keep it full. A snapshot's writers
    // send everything twice, in pieces of another size, so that retries are in pieces too.
    var threads: [WorkerThread] = []
    for writer in 0..<4 as Range<UInt64> {
      threads.append(
        try #require(
          WorkerThread(name: "writer-\(writer)") {
            do {
              for (size, count) in [(1 << 20, 24), (3 << 18, 32)] as [(UInt64, UInt64)] {
                for piece in 0..<count {
                  let range = ByteRange(offset: (writer << 26) + piece * size, count: size)
                  let slot = try disk.reserve(range)
                  slot.memory.initializeMemory(as: UInt8.self, repeating: UInt8(writer + 1))
                  try slot.commit(durable: false).wake()
                  let zeroes = ByteRange(offset: (writer << 26) + (32 << 20) + piece * size, count: size)
                  try disk.writeZeroes(zeroes, mayTrim: false, durable: false).wake()
                }
              }
            } catch {
              failures.add("\(error)")
            }
          }))
    }
    for thread in threads { thread.join() }
    #expect(failures.all.isEmpty, "\(failures.all.prefix(3))")
    #expect(try !fixture.journal.status().disks[0].generations[0].tainted)
    for writer in 0..<4 as Range<UInt64> {
      let bytes = try disk.bytes(ByteRange(offset: writer << 26, count: 24 << 20))
      #expect(bytes == [UInt8](repeating: UInt8(writer + 1), count: 24 << 20))
    }
  }

  @Test("writers and zeroers of one place get through a full ring")
  func onePlace() throws {
    let fixture = try JournalFixture()
    try fixture.makeDisk("d", byteCount: 64 << 20, mode: .device)
    let disk = fixture.disk
    let failures = JournalFixture.Messages()
    // Twice the ring in flight, of bytes that take the packers long; every request wants the same region locks.
    let range = ByteRange(offset: 0, count: 1 << 20)
    var random = SeededGenerator(seed: 3)
    let payload = (0..<(1 << 17)).map { _ in random.next() }
    var threads: [WorkerThread] = []
    for writer in 0..<32 {
      threads.append(
        try #require(
          WorkerThread(name: "writer-\(writer)") {
            do {
              for round in 0..<12 {
                if (writer + round) % 3 == 0 {
                  try disk.writeZeroes(range, mayTrim: false, durable: false).wake()
                } else {
                  let slot = try disk.reserve(range)
                  payload.withUnsafeBytes { slot.memory.copyMemory(from: $0) }
                  try slot.commit(durable: false).wake()
                }
              }
            } catch {
              failures.add("\(error)")
            }
          }))
    }
    for thread in threads { thread.join() }
    #expect(failures.all.isEmpty, "\(failures.all.prefix(3))")
    let bytes = try disk.bytes(range)
    let isOne = bytes.allSatisfy { $0 == 0 } || bytes == payload.withUnsafeBytes { Array($0) }
    #expect(isOne, "two writes are mixed")
  }

  private func write(_ disk: Disk, _ block: UInt64, _ version: UInt64) throws {
    let slot = try disk.reserve(
      ByteRange(offset: block * UInt64(blockByteCount), count: UInt64(blockByteCount)))
    content(block, version).withUnsafeBytes { slot.memory.copyMemory(from: $0) }
    try slot.commit(durable: false).wake()
  }
}

/// Reads a block and returns its version, or nil after noting what is wrong with it.
private func check(_ disk: Disk, _ block: UInt64, _ failures: JournalFixture.Messages) -> UInt64? {
  do {
    let bytes = try disk.bytes(
      ByteRange(offset: block * UInt64(blockByteCount), count: UInt64(blockByteCount)))
    return bytes.withUnsafeBytes { raw in
      let words = raw.bindMemory(to: UInt64.self)
      let version = (words[0] << 16) >> 32
      for (index, word) in words.enumerated() where word != block << 48 | version << 16 | UInt64(index) {
        failures.add("block \(block), word \(index): \(String(word, radix: 16))")
        return nil
      }
      return version
    }
  } catch {
    failures.add("block \(block): \(error)")
    return nil
  }
}
