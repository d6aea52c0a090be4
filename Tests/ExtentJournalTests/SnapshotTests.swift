import Bytes
import ExtentJournal
import Foundation
import TestKit
import Testing

// Goal: a snapshot disk takes each sector once; a retry is harmless and a contradiction is never silent.

private let pattern = (0..<128 << 10).map { UInt8(truncatingIfNeeded: $0 / 11) }

@Suite struct SnapshotTests {
  private func snapshot() throws -> JournalFixture {
    let fixture = try JournalFixture()
    try fixture.makeDisk("d", byteCount: 64 << 20, mode: .snapshot)
    return fixture
  }

  private func isTainted(_ fixture: JournalFixture) throws -> Bool {
    try fixture.journal.status().disks[0].generations[0].tainted
  }

  @Test(
    "a retry is acknowledged, adds only what was missing and stores nothing twice", arguments: [false, true])
  func retry(spilled: Bool) throws {
    let fixture = try snapshot()
    try fixture.disk.write(Array(pattern[..<(64 << 10)]), at: 0)
    if spilled { try fixture.journal.checkpoint() }
    let written = try fixture.journal.status().writtenBytes
    try fixture.disk.write(Array(pattern[..<(64 << 10)]), at: 0)
    #expect(try fixture.journal.status().writtenBytes == written)
    try fixture.disk.write(pattern, at: 0)
    #expect(try fixture.journal.status().writtenBytes == written + (64 << 10))
    #expect(try fixture.disk.bytes(ByteRange(offset: 0, count: 128 << 10)) == pattern)
    #expect(try !isTainted(fixture))
  }

  @Test("zeroes written as data and zeroes written as such are the same")
  func zeroes() throws {
    let fixture = try snapshot()
    let range = ByteRange(offset: 0, count: 64 << 10)
    try fixture.disk.writeZeroes(range, mayTrim: false, durable: false).wake()
    try fixture.disk.write([UInt8](repeating: 0, count: 64 << 10), at: 0)
    try fixture.disk.write([UInt8](repeating: 0, count: 64 << 10), at: 1 << 20)
    try fixture.disk.writeZeroes(ByteRange(offset: 1 << 20, count: 128 << 10), mayTrim: true, durable: false)
      .wake()
    #expect(try !isTainted(fixture))
    #expect(
      try fixture.disk.status(range, asWriter: false, limit: 4) == [
        StatusRun(byteCount: 64 << 10, isHole: true)
      ])
  }

  @Test(
    "a write that differs taints the generation, keeps the first bytes and fails readers",
    arguments: [0, 1, 2])
  func contradiction(how: Int) throws {
    let fixture = try snapshot()
    try fixture.disk.write(pattern, at: 0)
    if how == 1 { try fixture.journal.checkpoint() }
    let wakes = WakeCount()
    #expect(try fixture.disk.view(ByteRange(offset: 1 << 20, count: 512), wake: wakes.add) == nil)
    if how == 2 {
      try fixture.disk.writeZeroes(ByteRange(offset: 4096, count: 512), mayTrim: false, durable: false).wake()
    } else {
      var other = Array(pattern[4096..<8192])
      other[100] ^= 1
      try fixture.disk.write(other, at: 4096)
    }
    #expect(try isTainted(fixture))
    #expect(wakes.all.count == 1, "who waits for a broken generation must learn of it")
    #expect(throws: JournalError.self) { try fixture.disk.view(ByteRange(offset: 0, count: 512)) }
    #expect(throws: JournalError.self) { try fixture.disk.bytes(ByteRange(offset: 0, count: 512)) }
    fixture.crash()
    try fixture.open()
    #expect(try isTainted(fixture), "the taint did not survive")
    try fixture.close()
    #expect(throws: JournalError.self) {
      try replay(fixture, tainted: false)
    }
    #expect(try replay(fixture, tainted: true).dataBytes == 128 << 10)
    let output = try #require(FileManager.default.contents(atPath: fixture.directory.file("out")))
    #expect(Array(output.prefix(128 << 10)) == pattern, "what came first is kept")
  }

  private func replay(_ fixture: JournalFixture, tainted: Bool) throws -> Replay.Report {
    try Replay.toRawFile(
      from: JournalReader.open(fixture.path), disk: "d", output: fixture.directory.file("out"),
      tainted: tainted)
  }

  @Test("a trim of a snapshot is ignored")
  func trims() throws {
    let fixture = try snapshot()
    try fixture.disk.write(pattern, at: 0)
    try fixture.disk.trim(ByteRange(offset: 0, count: 64 << 10), durable: false).wake()
    #expect(try fixture.disk.bytes(ByteRange(offset: 0, count: 128 << 10)) == pattern)
    try fixture.disk.trim(ByteRange(offset: 1 << 20, count: 64 << 10), durable: false).wake()
    #expect(try fixture.disk.view(ByteRange(offset: 1 << 20, count: 512)) == nil)
  }

  @Test("a write larger than a reservation may be is taken whole, and its retry too")
  func large() throws {
    let fixture = try snapshot()
    var random = SeededGenerator(seed: 9)
    let bytes = (0..<(20 << 20) / 8).flatMap { _ in
      withUnsafeBytes(of: random.next()) { Array($0) }
    }
    for _ in 0..<2 {
      try fixture.disk.write(bytes, at: 1 << 20)
      #expect(try fixture.disk.bytes(ByteRange(offset: 1 << 20, count: 20 << 20)) == bytes)
    }
    #expect(try fixture.journal.status().writtenBytes == 20 << 20)
  }

  @Test("reading a snapshot's ingest export where nothing arrived is an error, never zeroes")
  func unarrived() throws {
    let fixture = try snapshot()
    #expect(throws: JournalError.self) { try fixture.disk.bytes(ByteRange(offset: 0, count: 512)) }
  }
}
