import Bytes
import ExtentJournal
import TestKit
import Testing
import Threads

// Goal: a disk whose many writers keep the ring full does not keep another from writing.
// Method: sixteen writers of one disk go on until the one writer of another disk has had its two rings' worth, in
// pieces of the largest size that lies in the ring.

@Suite("two disks that share a full ring")
struct FairnessTests {
  @Test("both get on, and what they wrote is what they read")
  func storm() throws {
    let fixture = try JournalFixture()
    let crowd = try fixture.journal.disk("crowd", byteCount: 64 << 20, mode: .device)
    let single = try fixture.journal.disk("single", byteCount: 64 << 20, mode: .device)
    var random = SeededGenerator(seed: 5)
    let payload = (0..<(1 << 18)).map { _ in random.next() }.withUnsafeBytes { Array($0) }
    let isDone = Switch()
    let writers = try (0..<16 as Range<UInt64>).map { writer in
      try Background("crowd-\(writer)") {
        var size = 4096
        while !isDone.isOn {
          try crowd.write(Array(payload[..<size]), at: writer << 22)
          size = size == 1 << 20 ? 4096 : size * 2
        }
      }
    }
    let one = try Background("single") {
      for part in 0..<16 as Range<UInt64> { try single.write(payload, at: part << 21) }
    }
    let hasEnded = one.hasEnded(within: 60_000)
    isDone.turnOn()
    #expect(hasEnded, "the single writer starves")
    for writer in writers { writer.finish() }
    one.finish()
    for part in 0..<16 as Range<UInt64> {
      let isRight = try single.bytes(ByteRange(offset: part << 21, count: 1 << 21)) == payload
      #expect(isRight, "part \(part)")
    }
  }

  private final class Switch: @unchecked Sendable {
    // Sendable: guarded by `lock`.
    private let lock = Lock()
    private var value = false
    func turnOn() { lock.withLock { value = true } }
    var isOn: Bool { lock.withLock { value } }
  }
}
