import Bytes
import ExtentJournal
import TestKit
import Testing
import Threads

// Goal: a read of what has not arrived waits, and its wait ends exactly once, whatever ends it.
// Method: one journal each, with reads parked by hand; wake-ups are counted, never timed.

private let block = ByteRange(offset: 64 << 10, count: 64 << 10)
private let pattern = (0..<64 << 10).map { UInt8(truncatingIfNeeded: $0 / 7) }

@Suite struct ParkedReadTests {
  private func snapshot(_ change: (inout JournalOptions) -> Void = { _ in }) throws -> JournalFixture {
    let fixture = try JournalFixture(change)
    try fixture.makeDisk("d", byteCount: 1 << 20, mode: .snapshot)
    return fixture
  }

  @Test("a read parked on a range wakes once when it has arrived, and then gets the bytes")
  func arrival() throws {
    let fixture = try snapshot()
    let wakes = WakeCount()
    #expect(try fixture.disk.view(block, wake: wakes.add) == nil)
    #expect(try fixture.journal.status().parkedReads == 1)
    try fixture.disk.write([UInt8](repeating: 1, count: 4096), at: 0)
    #expect(wakes.all.isEmpty, "another block woke it")
    try fixture.disk.write(pattern, at: block.start)
    #expect(wakes.all.count == 1)
    #expect(try fixture.disk.view(block) == pattern)
    #expect(try fixture.journal.status().parkedReads == 0)
    #expect(try fixture.journal.status().waitedReads == 1)
  }

  @Test("a read of several pieces is served only when the last of them is there", arguments: [false, true])
  func pieces(zeroesLast: Bool) throws {
    let fixture = try snapshot()
    let half = UInt64(32 << 10)
    let wakes = WakeCount()
    #expect(try fixture.disk.view(block, wake: wakes.add) == nil)
    try fixture.disk.write(Array(pattern[Int(half)...]), at: block.start + half)
    #expect(try fixture.disk.view(block) == nil, "half of it was served")
    if zeroesLast {
      let zeroes = ByteRange(offset: block.start, count: half)
      try fixture.disk.writeZeroes(zeroes, mayTrim: false, durable: false).wake()
      #expect(try fixture.disk.view(block) == [UInt8](repeating: 0, count: Int(half)) + pattern[Int(half)...])
    } else {
      try fixture.disk.write(Array(pattern[..<Int(half)]), at: block.start)
      #expect(try fixture.disk.view(block) == pattern)
    }
    #expect(wakes.all.count == 1)
  }

  @Test("completion wakes what waits; what never arrived is an error on a snapshot and zeroes on a device")
  func completion() throws {
    for mode in DiskMode.allCases {
      let fixture = try JournalFixture()
      try fixture.makeDisk("d", byteCount: 1 << 20, mode: mode)
      let wakes = WakeCount()
      #expect(try fixture.disk.view(block, wake: wakes.add) == nil)
      try fixture.disk.complete()
      #expect(wakes.all.count == 1)
      if mode == .snapshot {
        #expect(throws: JournalError.self) { try fixture.disk.view(block) }
      } else {
        #expect(try fixture.disk.view(block) == [UInt8](repeating: 0, count: 64 << 10))
      }
      try fixture.disk.complete()
      #expect(wakes.all.count == 1, "woken twice")
    }
  }

  @Test("a read that waits too long is told so, once")
  func timeout() throws {
    let fixture = try snapshot { $0.readTimeoutNanoseconds = 1_000_000 }
    let wakes = WakeCount()
    // Parked far in the past: it is due at once, whatever the machine's speed.
    if try fixture.disk.view(block, since: MonotonicClock.nanoseconds(), wake: wakes.add) == nil {
      wakes.wait(for: 1)
      guard case .timedOut = wakes.all[0] else { return #expect(Bool(false), "woken for another reason") }
    }
    #expect(throws: JournalError.self) { try fixture.disk.view(block, since: 1) }
    try fixture.disk.write(pattern, at: block.start)
    #expect(wakes.all.count == 1)
    #expect(try fixture.journal.status().parkedReads == 0)
  }

  @Test("a read that came in long before the others that wait is timed out before them")
  func oldestLast() throws {
    // The clock counts from the start of the machine, which may have been minutes ago.
    let now = MonotonicClock.nanoseconds()
    let patience = now / 2
    let fixture = try snapshot { $0.readTimeoutNanoseconds = patience }
    let young = WakeCount()
    let old = WakeCount()
    #expect(try fixture.disk.view(block, since: now, owner: 1, wake: young.add) == nil)
    // As one that was woken and parks again; due in a moment, or now on a slow machine.
    let outcome = Result { try fixture.disk.view(block, since: now - patience + 100_000_000, wake: old.add) }
    if case .success(nil) = outcome {
      old.wait(for: 1)
    } else {
      #expect(throws: JournalError.self) { try outcome.get() }
    }
    #expect(old.all.allSatisfy { $0 == .timedOut } && young.all.isEmpty)
    fixture.disk.dropParked(owner: 1)
    #expect(try fixture.journal.status().parkedReads == 0)
  }

  @Test(
    "what arrives wakes who waits for its first sector anywhere in it, and nobody else", arguments: seeds(3))
  func whoIsWoken(seed: UInt64) throws {
    let fixture = try snapshot()
    var random = SeededGenerator(seed: seed)
    var waiting: [(sector: UInt64, wakes: WakeCount)] = []
    for _ in 0..<300 {
      // Three regions, so that some hold many reads and arrivals cross from one to the next.
      let sector = UInt64.random(in: 0..<2048, using: &random)
      let wakes = WakeCount()
      let range = ByteRange(offset: sector * 512, count: 512)
      if try fixture.disk.view(range, wake: wakes.add) == nil { waiting.append((sector, wakes)) }
      guard Int.random(in: 0..<10, using: &random) == 0 else { continue }
      let start = UInt64.random(in: 0..<1900, using: &random)
      let arrival = SectorRange(start: start, count: .random(in: 1...148, using: &random))
      try fixture.disk.writeZeroes(arrival.bytes, mayTrim: false, durable: false).wake()
      for (sector, wakes) in waiting {
        let isHit = arrival.start <= sector && sector < arrival.end
        #expect(wakes.all.count == (isHit ? 1 : 0), "seed \(seed), sector \(sector)")
      }
      waiting.removeAll { !$0.wakes.all.isEmpty }
    }
    #expect(try fixture.journal.status().parkedReads == UInt64(waiting.count))
  }

  @Test("the reads of a reader that has gone are dropped and never woken; others stay")
  func disconnect() throws {
    let fixture = try snapshot()
    let gone = WakeCount()
    let here = WakeCount()
    for _ in 0..<100 { #expect(try fixture.disk.view(block, owner: 1, wake: gone.add) == nil) }
    #expect(try fixture.disk.view(block, owner: 2, wake: here.add) == nil)
    fixture.disk.dropParked(owner: 1)
    #expect(try fixture.journal.status().parkedReads == 1)
    try fixture.disk.write(pattern, at: block.start)
    #expect(gone.all.isEmpty)
    #expect(here.all.count == 1)
  }

  @Test("a shutdown wakes what waits, and nothing parks after it")
  func shutdown() throws {
    let fixture = try snapshot()
    let wakes = WakeCount()
    #expect(try fixture.disk.view(block, wake: wakes.add) == nil)
    fixture.journal.stopWaiting()
    #expect(wakes.all.count == 1)
    #expect(throws: JournalError.self) { try fixture.disk.view(block) }
  }

  @Test("until completion the reader's wish rules: wait, zeroes or error", arguments: Unarrived.allCases)
  func wishes(unarrived: Unarrived) throws {
    let fixture = try snapshot { $0.unarrived = unarrived }
    switch unarrived {
    case .wait: #expect(try fixture.disk.view(block) == nil)
    case .zeroes: #expect(try fixture.disk.view(block) == [UInt8](repeating: 0, count: 64 << 10))
    case .error: #expect(throws: JournalError.self) { try fixture.disk.view(block) }
    }
    let status = try fixture.disk.status(block, asWriter: false, limit: 10)
    #expect(status == [StatusRun(byteCount: block.count, isHole: false)], "what is awaited is data")
  }

  @Test("a read that comes at the very moment of its write is served or woken, never forgotten")
  func sameMoment() throws {
    let fixture = try JournalFixture()
    try fixture.makeDisk("d", byteCount: 4 << 20, mode: .snapshot)
    let disk = fixture.disk
    let rounds = 400
    let start = Meeting()
    let served = WakeCount()
    let reader = try #require(
      WorkerThread(name: "reader") {
        for round in 0..<UInt64(rounds) {
          let range = ByteRange(offset: round * 2048, count: 512)
          let wake = WakeCount()
          start.meet(2)
          var parked = 0
          while case .success(nil) = Result(catching: { try disk.view(range, wake: wake.add) }) {
            parked += 1
            wake.wait(for: parked)
          }
          served.add(.retry)
        }
      })
    for round in 0..<UInt64(rounds) {
      let slot = try disk.reserve(ByteRange(offset: round * 2048, count: 512))
      slot.memory.initializeMemory(as: UInt8.self, repeating: 3)
      start.meet(2)
      try slot.commit(durable: false).wake()
      served.wait(for: Int(round) + 1)
    }
    reader.join()
    #expect(served.all.count == rounds)
    #expect(try fixture.journal.status().parkedReads == 0)
  }

  @Test("readers that race with the writer are each woken exactly once and get the right bytes")
  func race() throws {
    let fixture = try snapshot()
    let disk = fixture.disk
    let readers = 4
    let rounds = 8
    let done = WakeCount()
    let wrong = WakeCount()
    var threads: [WorkerThread] = []
    for reader in 0..<readers {
      let thread = WorkerThread(name: "reader-\(reader)") {
        for piece in 0..<UInt64(rounds) {
          let range = ByteRange(offset: piece * 64 << 10, count: 64 << 10)
          let wake = WakeCount()
          var parked = 0
          while true {
            let outcome = Result { try disk.view(range, wake: wake.add) }
            guard case .success(let bytes) = outcome else {
              wrong.add(.retry)
              break
            }
            if let bytes {
              if bytes != [UInt8](repeating: UInt8(piece + 1), count: 64 << 10) { wrong.add(.retry) }
              if wake.all.count != parked { wrong.add(.retry) }
              break
            }
            parked += 1
            wake.wait(for: parked)
          }
        }
        done.add(.retry)
      }
      threads.append(try #require(thread))
    }
    for piece in 0..<UInt64(rounds) {
      try fixture.disk.write([UInt8](repeating: UInt8(piece + 1), count: 64 << 10), at: piece * 64 << 10)
      if piece % 2 == 0 { try fixture.journal.checkpoint() }
    }
    done.wait(for: readers)
    for thread in threads { thread.join() }
    #expect(wrong.all.isEmpty)
    #expect(try fixture.journal.status().parkedReads == 0)
  }
}
