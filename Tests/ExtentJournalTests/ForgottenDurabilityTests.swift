import Bytes
import ExtentJournal
import TestKit
import Testing

/// Goal: what upkeep has punched is never taken for damage, also when the segment goes that said it was durable. Method: batches of
/// several segments become durable at once, so that none of them says so of another; runs are punched, for which an empty group
/// of a moved segment says it; that segment is given up by the next process; then power and index are lost.
@Suite struct ForgottenDurabilityTests {
  @Test("who gives up a segment says in another what that has called durable", arguments: [false, true])
  func moves(isForgotten: Bool) throws {
    let fixture = try JournalFixture()
    fixture.host.segmentBytesMax = 1 << 20
    fixture.host.upkeepLimits.compactedBytesMin = 1 << 40
    if isForgotten { fixture.host.hooks.bug = .durabilityForgotten }
    try fixture.close()
    try fixture.open()
    let (block, count): (UInt64, UInt64) = (64 << 10, 40)
    try fixture.makeDisk("d", byteCount: 4 * count * block, mode: .device)
    var content: [[UInt8]] = []
    var random = SeededGenerator(seed: 12)
    func write(_ index: UInt64) throws -> [UInt8] {
      let bytes = (0..<Int(block)).map { _ in UInt8.random(in: 0...255, using: &random) }
      try fixture.disk.write(bytes, at: 3 * index * block)
      try fixture.journal.spill()
      return bytes
    }
    for index in 0..<count { content.append(try write(index)) }
    for index in 0..<count where index % 3 != 0 { content[Int(index)] = try write(index) }
    #expect(try fixture.journal.upkeep().punchedRuns > 0)
    // Nothing is punched that would have it said again.
    fixture.host.upkeepLimits.punchedBytesMin = 1 << 40
    try powerCut(fixture)
    #expect(try fixture.journal.upkeep().unlinkedSegments == 1, "the moved segment is empty")
    try powerCut(fixture, losesIndex: true)
    let wasRight = try fixture.journal.status().damage == nil && isRight(fixture, content)
    #expect(wasRight == !isForgotten)
  }

  private func isRight(_ fixture: JournalFixture, _ content: [[UInt8]]) throws -> Bool {
    for (index, bytes) in content.enumerated() {
      let range = ByteRange(offset: UInt64(3 * index * bytes.count), count: UInt64(bytes.count))
      guard try fixture.disk.bytes(range) == bytes else { return false }
    }
    return true
  }

  /// Everything was durable; the ring is of another boot.
  private func powerCut(_ fixture: JournalFixture, losesIndex: Bool = false) throws {
    fixture.crash()
    if losesIndex { try fixture.removeIndex() }
    fixture.host.bootID = "00000000-0000-4000-8000-00000000000\(losesIndex ? 2 : 1)"
    try fixture.open()
  }
}
