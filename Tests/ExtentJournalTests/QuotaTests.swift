import Bytes
import BlockFile
import ExtentJournal
import Foundation
import TestKit
import Testing
import Threads

// Goal: a journal never takes more than its quota, and goes on when some of it is given back.
// Method: the pure parts by numbers; a small quota that is written full, at random and in order, with what the directory
// takes asked after each step; releases and upkeep make room again.

@Suite struct QuotaTests {
  @Test("segments, transactions and the reserve scale with the quota")
  func scales() throws {
    #expect(Quota(byteCount: (64 << 20) - 1) == nil)
    let small = try #require(Quota(byteCount: 64 << 20))
    #expect(small.segmentBytesMax == 4 << 20 && small.indexPagesMax == 512)
    #expect(small.reserve(indexBytes: 100) == (8 << 20) + 100)
    let large = try #require(Quota(byteCount: 1 << 40))
    #expect(large.segmentBytesMax == 64 << 20 && large.indexPagesMax == 4096)
    let disk = FileSpace(freeByteCount: 10 << 20, totalByteCount: 1 << 40)
    #expect(small.space(ownedBytes: 60 << 20, of: disk).freeByteCount == 4 << 20)
    #expect(small.space(ownedBytes: 0, of: disk).freeByteCount == 10 << 20)
    #expect(small.space(ownedBytes: 100 << 20, of: disk).freeByteCount == 0)
  }

  @Test("the forecast goes by the pace of the last minute, and says nothing of what does not grow")
  func forecast() {
    var forecast = SpaceForecast()
    let second: UInt64 = 1_000_000_000
    #expect(forecast.seconds(freeBytes: 100, ownedBytes: 10, at: second) == nil)
    for time in 0..<200 as Range<UInt64> {
      // A thousand bytes a second at first, ten later.
      forecast.note(time < 100 ? time * 1000 : 100_000 + (time - 100) * 10, at: time * second)
    }
    #expect(forecast.seconds(freeBytes: 1000, ownedBytes: 101_000, at: 200 * second) == 100)
    #expect(forecast.seconds(freeBytes: 1000, ownedBytes: 5, at: 200 * second) == nil)
  }

  /// What the journal's segments and index take on disk.
  private func ownedBytes(_ fixture: JournalFixture) throws -> UInt64 {
    var total: UInt64 = 0
    for folder in ["segments", "index"] {
      let path = "\(fixture.path)/\(folder)"
      for name in try FileManager.default.contentsOfDirectory(atPath: path) {
        var status = stat()
        guard stat("\(path)/\(name)", &status) == 0 else { continue }
        total += UInt64(status.st_blocks) * 512
      }
    }
    return total
  }

  @Test(
    "a quota is filled and never passed, and what is released can be written anew",
    arguments: [4096, 1 << 20])
  func neverPassed(writeByteCount: Int) throws {
    let quota: UInt64 = 64 << 20
    let fixture = try JournalFixture {
      $0.quota = Quota(byteCount: quota)
      $0.whenFull = .enospc
    }
    fixture.host.fullDiskRetryNanoseconds = 1_000_000
    try fixture.makeDisk("d", byteCount: 1 << 30, mode: .device)
    var random = SeededGenerator(seed: UInt64(writeByteCount))
    let blocks = (1 << 30) / UInt64(writeByteCount)
    func fill() throws -> Int {
      var written = 0
      while written < 200 << 20 {
        var bytes: [UInt8] = []
        while bytes.count < writeByteCount { bytes.appendBigEndian(random.next()) }
        let offset = .random(in: 0..<blocks, using: &random) * UInt64(writeByteCount)
        if failure({ try fixture.disk.write(bytes, at: offset) }) == .noSpace {
          try fixture.journal.checkpoint()
          #expect(try ownedBytes(fixture) <= quota)
          return written
        }
        written += writeByteCount
        if written % (4 << 20) == 0 { #expect(try ownedBytes(fixture) <= quota) }
      }
      return written
    }
    let first = try fill()
    #expect(first > 24 << 20 && first < 64 << 20, "\(first)")
    let status = try fixture.journal.status()
    #expect(status.quotaBytes == quota && status.availableBytes ?? .max < UInt64(writeByteCount) * 2 + 65536)
    // Everything acknowledged can be flushed.
    try fixture.journal.flush()
    try fixture.disk.trim(ByteRange(start: 0, end: 1 << 30), durable: false).wake()
    _ = try fixture.journal.upkeep()
    #expect(try ownedBytes(fixture) <= 16 << 20)
    #expect(try fill() > 16 << 20)
    try fixture.close()
    #expect(try ownedBytes(fixture) <= quota)
  }
}
