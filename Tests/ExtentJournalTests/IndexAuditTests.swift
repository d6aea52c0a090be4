import Bytes
import ExtentJournal
import Foundation
import TestKit
import Testing
import Threads

// Goal: a row that lies is found without anybody reading there, and costs the index only; a damaged frame is told once,
// with its place, and costs nothing else.
// Method: one region has all the rows, so that every audit meets one of them; the row or the frame is changed in its file.

@Suite struct IndexAuditTests {
  /// Runs the audit, which follows each commit.
  private func audit(_ setup: IndexSetup) throws {
    try setup.fixture.disk.trim(ByteRange(offset: 1 << 30, count: 512), durable: false).wake()
    try setup.fixture.journal.checkpoint()
  }

  /// What to do to the 96 bits of the first entry, which stand from byte 4 of the row on.
  private enum Lie: CaseIterable {
    case beforeAnything, noFrame, behindTheEnd, noSegment, anotherPart, anotherSize

    func tell(_ row: inout [UInt8]) {
      switch self {
      case .beforeAnything, .noFrame, .behindTheEnd: break
      case .noSegment: row[9] ^= 0x40
      case .anotherPart: row[7] ^= 0x02
      case .anotherSize: row[7] ^= 0x01
      }
      // The last 22 bits are the granule.
      switch self {
      case .beforeAnything: row[13...15] = [0x00, 0x01, 0x00]
      case .noFrame: row[15] ^= 0x05
      case .behindTheEnd: row[13] ^= 0x30
      default: break
      }
    }
  }

  @Test("a row that lies is found by the audit, and the index is built again", arguments: 0..<6)
  func lies(_ number: Int) throws {
    let setup = try IndexSetup()
    try setup.write(0..<1)
    try setup.fixture.journal.checkpoint()
    let lie = Lie.allCases[number]
    try setup.damageRows(disk: 1, regions: 0..<1) { lie.tell(&$0) }
    // Random rows, but there are only two regions with rows, and one of them has no frame.
    for _ in 0..<50 where setup.said("which") == 0 { try audit(setup) }
    #expect(
      setup.said("the row for bytes 0 to 65536 of d points to") == 1, "\(lie): \(setup.fixture.messages.all)")
    try setup.check(0..<1)
    for _ in 0..<10 { try audit(setup) }
    #expect(setup.said("will be built again") == 1)
    #expect(setup.said("the index is built again, in") == 1)
  }

  @Test("a read that meets a row that lies waits for a new index and gets the right bytes", arguments: 0..<5)
  func readsOfLies(_ number: Int) throws {
    let setup = try IndexSetup()
    try setup.write(0..<1)
    // Nothing reads the rows between the damage and the read.
    try setup.fixture.journal.checkpoint()
    try setup.damageRows(disk: 1, regions: 0..<1) { Lie.allCases[number].tell(&$0) }
    try setup.check(0..<1)
    #expect(setup.said("which") == 1 && setup.said("the index is built again, in") == 1)
  }

  @Test(
    "a read that meets a row that lies fails when the journal has failed: nobody builds a new index",
    .timeLimit(.minutes(1)), arguments: [false, true])
  func failedJournal(isWaiting: Bool) throws {
    let segments = SimulatedDisk(seed: 1)
    let setup = try IndexSetup(segments: segments)
    try setup.write(0..<1)
    try setup.fixture.journal.checkpoint()
    try setup.damageRows(disk: 1, regions: 0..<1) { Lie.noFrame.tell(&$0) }
    let disk = setup.fixture.disk
    func fail() throws {
      segments.plant(.inputOutput, after: 0)
      try setup.write(5..<6)
      #expect(throws: JournalError.self) { try setup.fixture.journal.flush() }
    }
    if !isWaiting { try fail() }
    if isWaiting { setup.plan.hold() }
    let reader = try #require(
      WorkerThread(name: "reader") {
        #expect(throws: JournalError.self) {
          try disk.bytes(ByteRange(offset: 0, count: UInt64(indexBlock)))
        }
      })
    if isWaiting {
      // The rebuild has begun and stands still.
      setup.plan.waitUntilHeld()
      try fail()
    }
    reader.join()
    setup.plan.release()
  }

  @Test("a damaged frame is told once and the index is left alone", arguments: [10, 200])
  func damagedFrame(at place: Int) throws {
    let setup = try IndexSetup()
    try setup.write(0..<1)
    try setup.fixture.journal.checkpoint()
    let path = try #require(setup.fixture.segmentPaths.first)
    let bytes = try Data(contentsOf: URL(fileURLWithPath: path))
    let frame = try #require(bytes.range(of: Data("SPWF".utf8))).lowerBound
    let file = try FileHandle(forUpdating: URL(fileURLWithPath: path))
    try file.seek(toOffset: UInt64(frame + place))
    try file.write(contentsOf: Data([bytes[frame + place] ^ 0xFF]))
    try file.close()
    for _ in 0..<50 where setup.said("are damaged") == 0 { try audit(setup) }
    for _ in 0..<10 { try audit(setup) }
    #expect(setup.said("bytes 0 to 65536 of d are damaged: the frame at offset \(frame) of segments/") == 1)
    #expect(setup.said("built again") == 0)
  }

  @Test("an audit of a sound journal finds nothing, split rows and range rows included")
  func sound() throws {
    let setup = try IndexSetup()
    try setup.write(0..<30)
    for piece in 0..<400 as Range<UInt64> {
      try setup.fixture.disk.write([UInt8](repeating: UInt8(piece % 255) + 1, count: 512), at: piece * 1024)
    }
    try setup.fixture.journal.checkpoint()
    try setup.fixture.disk.trim(ByteRange(offset: 1 << 20, count: 1 << 35), durable: false).wake()
    try setup.fixture.disk.write(indexPattern(1), at: 1 << 29)
    for _ in 0..<30 { try audit(setup) }
    #expect(setup.said("built again") == 0 && setup.said("damaged") == 0, "\(setup.fixture.messages.all)")
  }
}
