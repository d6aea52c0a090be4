import Bytes
import ExtentJournal
import TestKit
import Testing
import Threads

// Goal: a sender that stops in the middle of a payload stops nobody else, and what it sends later is as right as ever.
// Method: a slot that is filled by half while others write several rings' worth; what the server does about late
// payloads is done by hand.

@Suite("a sender that stalls in the middle of a payload")
struct StalledSenderTests {
  private let directory: TemporaryDirectory
  private let journal: Journal

  init() throws {
    directory = try TemporaryDirectory()
    var options = JournalOptions()
    options.spoolDirectory = directory.path
    options.spoolByteCount = 16 << 20
    var host = JournalHost()
    host.privateBytesMax = 4 << 20
    host.stalledSenderNanoseconds = 1_000_000
    journal = try Journal.open(directory.file("j"), options: options, host: host) { _, _ in }
  }

  private func pattern(_ seed: UInt64, _ count: Int) -> [UInt8] {
    var random = SeededGenerator(seed: seed)
    return (0..<count / 8 + 1).map { _ in random.next() }.withUnsafeBytes { Array($0.prefix(count)) }
  }

  /// Writes 48 MiB to each of `disks`: three rings' worth of bytes that do not compress.
  private func pushThreeRings(_ disks: [Disk]) throws -> Background {
    let payload = pattern(9, 256 << 10)
    return try Background("push") {
      for offset in stride(from: 0 as UInt64, to: 48 << 20, by: payload.count) {
        for disk in disks { try disk.write(payload, at: (16 << 20) + offset) }
      }
    }
  }

  /// What the server does while a payload does not come.
  private func beLate(_ slots: [(slot: WriteSlot, received: Int)], until push: Background) throws {
    let since = MonotonicClock.nanoseconds()
    let limit = since + 30_000_000_000
    while !push.hasEnded(within: 5), MonotonicClock.nanoseconds() < limit {
      for (slot, received) in slots { try slot.payloadIsLate(received: received, since: since) }
    }
  }

  @Test(
    "holds up neither its own disk nor another, and its write is whole when the rest comes",
    arguments: [
      DiskMode.device, .snapshot,
    ])
  func stalled(mode: DiskMode) throws {
    let own = try journal.disk("own", byteCount: 64 << 20, mode: mode)
    let other = try journal.disk("other", byteCount: 64 << 20, mode: .device)
    // Off the grid on a device, so that the edges have to come from what is there.
    let around = pattern(1, 1 << 20)
    if mode == .device { try own.write(around, at: 0) }
    let range = ByteRange(offset: mode == .device ? 1000 : 1024, count: mode == .device ? 700_001 : 700_416)
    let payload = pattern(2, Int(range.count))
    let slots = try (0..<2).map { index in
      let slot = try own.reserve(ByteRange(offset: range.start + UInt64(index) << 20, count: range.count))
      UnsafeMutableRawBufferPointer(rebasing: slot.memory[..<300_000]).copyBytes(from: payload[..<300_000])
      return slot
    }
    let push = try pushThreeRings([own, other])
    try beLate(slots.map { ($0, 300_000) }, until: push)
    push.finish()
    for slot in slots {
      UnsafeMutableRawBufferPointer(rebasing: slot.memory[300_000...]).copyBytes(from: payload[300_000...])
      try slot.commit(durable: true).wake()
    }
    for index in 0..<2 as Range<UInt64> {
      #expect(try own.bytes(ByteRange(offset: range.start + index << 20, count: range.count)) == payload)
    }
    if mode == .device {
      #expect(try own.bytes(ByteRange(offset: 0, count: 1000)) == Array(around[..<1000]))
      let end = Int(range.end)
      #expect(try own.bytes(ByteRange(offset: range.end, count: 3000)) == Array(around[end..<end + 3000]))
    }
    #expect(try own.bytes(ByteRange(offset: 63 << 20, count: 1 << 18)) == pattern(9, 256 << 10))
    #expect(try journal.status().disks.allSatisfy { !$0.generations[0].tainted })
    try journal.close()
  }

  @Test("has to go, the one that has stalled longest, when the memory for such payloads is used up")
  func evicted() throws {
    let disk = try journal.disk("d", byteCount: 64 << 20, mode: .device)
    // More than a reservation may be: received in memory of its own. Two of them are all there is.
    let large = 2 << 20 + 512 << 10
    let first = try disk.reserve(ByteRange(offset: 0, count: UInt64(large)))
    let since = MonotonicClock.nanoseconds()
    try first.payloadIsLate(received: 0, since: since)
    let healthy = try Background("large") {
      try disk.write([UInt8](repeating: 7, count: large), at: 8 << 20)
    }
    #expect(throws: JournalError.self) {
      let limit = MonotonicClock.nanoseconds() + 30_000_000_000
      while MonotonicClock.nanoseconds() < limit { try first.payloadIsLate(received: 0, since: since) }
    }
    #expect(!healthy.hasEnded(), "it waits for the memory")
    first.abandon()
    healthy.finish()
    #expect(try disk.bytes(ByteRange(offset: 8 << 20, count: 4)) == [7, 7, 7, 7])
    try journal.close()
  }
}
