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

  private func ownedBytes(_ fixture: JournalFixture) throws -> UInt64 {
    try Self.ownedBytes(of: fixture.path)
  }

  /// What the segments and the index of the journal at `place` take on disk.
  static func ownedBytes(of place: String) throws -> UInt64 {
    var total: UInt64 = 0
    for folder in ["segments", "index", "index.next", "index.old"] {
      let path = "\(place)/\(folder)"
      guard FileManager.default.fileExists(atPath: path) else { continue }
      for name in (try? FileManager.default.contentsOfDirectory(atPath: path)) ?? [] {
        var status = stat()
        guard stat("\(path)/\(name)", &status) == 0 else { continue }
        total += UInt64(status.st_blocks) * 512
      }
    }
    return total
  }

  @Test(
    "an index that is built anew, beside the old one or after its loss, stays within a quota that is full")
  func rebuild() throws {
    let quota: UInt64 = 64 << 20
    let fixture = try JournalFixture {
      $0.quota = Quota(byteCount: quota)
      $0.whenFull = .enospc
    }
    try fixture.close()
    fixture.host.fullDiskRetryNanoseconds = 1_000_000
    // Looked at before each transaction of the index; one fails when it is told to.
    let (peak, isArmed, place) = (Peak(), Flag(), fixture.path)
    fixture.host.indexFault = { _ in
      peak.note((try? Self.ownedBytes(of: place)) ?? .max)
      return isArmed.take() ? 5 : 0
    }
    try fixture.open()
    try fixture.makeDisk("d", byteCount: 1 << 30, mode: .device)
    var random = SeededGenerator(seed: 11)
    var content: [UInt64: [UInt8]] = [:]
    // Small writes all over: the index is as large as it gets.
    while true {
      var bytes: [UInt8] = []
      while bytes.count < 4096 { bytes.appendBigEndian(random.next()) }
      let offset = UInt64.random(in: 0..<1 << 18, using: &random) * 4096
      if failure({ try fixture.disk.write(bytes, at: offset) }) == .noSpace { break }
      content[offset] = bytes
    }
    try fixture.journal.checkpoint()
    #expect(try Self.ownedBytes(of: place) > quota / 2 && content.count > 4000)
    func check(_ when: String) throws {
      #expect(peak.value <= quota, "\(when): \(peak.value)")
      let samples = content.keys.sorted().enumerated().filter { $0.offset % 97 == 0 }.map(\.element)
      for offset in samples {
        let isRight = try fixture.disk.bytes(ByteRange(offset: offset, count: 4096)) == content[offset]
        #expect(isRight, "\(when): offset \(offset)")
      }
      #expect(try fixture.journal.livenessFlaw() == nil, "\(when)")
      #expect(try Self.ownedBytes(of: place) <= quota, "\(when)")
    }
    try check("before")
    // An I/O error of a commit: a new index is built beside the old one.
    isArmed.set()
    try fixture.disk.trim(ByteRange(offset: 0, count: 512), durable: true).wake()
    content[0] = nil
    try fixture.journal.checkpoint()
    #expect(!isArmed.isSet)
    try check("beside the old one")
    try fixture.close()
    try fixture.removeIndex()
    try fixture.open()
    try check("after its loss")
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

/// The highest of some values, from any thread.
private final class Peak: @unchecked Sendable {
  // Sendable: guarded by `lock`.
  private let lock = Lock()
  private var highest: UInt64 = 0

  var value: UInt64 { lock.withLock { highest } }
  func note(_ value: UInt64) { lock.withLock { highest = max(highest, value) } }
}
