import Bytes
import ExtentJournal
import TestKit
import Testing

// Goal: what is overwritten, zeroed or trimmed within its batch never reaches the disk.
// Method: less than a batch's worth of writes between two spills, and the count of bytes that went to frames.

@Suite("bytes that die within their batch")
struct DeadBytesTests {
  private func framedByteCount(_ body: (Disk) throws -> Void) throws -> UInt64 {
    let fixture = try JournalFixture()
    try fixture.makeDisk("d", byteCount: 64 << 20, mode: .device)
    try body(fixture.disk)
    try fixture.journal.flush()
    let framed = try fixture.journal.status().framedBytes
    try fixture.close()
    return framed
  }

  private let block = [UInt8](repeating: 5, count: 64 << 10)

  @Test("only the last of many writes to a place is stored")
  func overwritten() throws {
    let framed = try framedByteCount { disk in
      for _ in 0..<60 { try disk.write(block, at: 1 << 20) }
      // All but its first and last sector dies.
      try disk.write([UInt8](repeating: 6, count: (64 << 10) - 1024), at: 1 << 20 + 512)
    }
    #expect(framed == 64 << 10)
  }

  @Test("what is zeroed or trimmed is not stored, and what lies around it is")
  func trimmed() throws {
    let framed = try framedByteCount { disk in
      for place in 0..<32 as Range<UInt64> { try disk.write(block, at: place << 16) }
      _ = try disk.trim(ByteRange(offset: 0, count: 16 << 16), durable: false)
      _ = try disk.writeZeroes(ByteRange(offset: 16 << 16, count: 15 << 16), mayTrim: false, durable: false)
    }
    #expect(framed == 64 << 10)
  }
}
