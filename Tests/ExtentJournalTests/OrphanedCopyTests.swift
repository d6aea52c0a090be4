import Bytes
import ExtentJournal
import TestKit
import Testing
import Threads

/// Goal: a copy of which the index never heard brings nothing back when the index is built again, also after its place was given
/// back. Method: a segment is compacted, the index cannot take in the copies of the next one, what is dead of the moved segment
/// is punched, and the index is lost.
@Suite struct OrphanedCopyTests {
  @Test("a copy that was punched is not taken for what it was copied from")
  func punched() throws {
    let fixture = try JournalFixture()
    fixture.host.segmentBytesMax = 1 << 20
    // Nothing is punched yet: what is dead is compacted.
    fixture.host.upkeepLimits.punchedBytesMin = 1 << 40
    fixture.host.upkeepLimits.overheadBytes = 4096
    let fault = Fault()
    fixture.host.indexFault = { _ in fault.outcome() }
    fixture.host.hooks.atStage = { if $0 == .copied { fault.copied() } }
    try fixture.close()
    try fixture.open()
    let (block, count): (UInt64, UInt64) = (64 << 10, 60)
    try fixture.makeDisk("d", byteCount: 4 * count * block, mode: .device)
    var content: [[UInt8]] = []
    var random = SeededGenerator(seed: 11)
    func write(_ index: UInt64) throws -> [UInt8] {
      let bytes = (0..<Int(block)).map { _ in UInt8.random(in: 0...255, using: &random) }
      try fixture.disk.write(bytes, at: 3 * index * block)
      return bytes
    }
    for index in 0..<count { content.append(try write(index)) }
    try fixture.journal.checkpoint()
    for index in 0..<count where index % 3 != 0 { content[Int(index)] = try write(index) }
    try fixture.journal.checkpoint()
    fault.arm(afterCopies: 2)
    #expect(failure { _ = try fixture.journal.upkeep() } == .noSpace)
    fault.disarm()
    try fixture.close()
    fixture.host.indexFault = nil
    fixture.host.hooks.atStage = nil
    fixture.host.upkeepLimits = UpkeepLimits()
    fixture.host.upkeepLimits.compactedBytesMin = 1 << 40
    try fixture.open()
    let report = try fixture.journal.upkeep()
    #expect(report.punchedRuns > 0 && report.compactedSegments == 0, "\(report)")
    #expect(try fixture.journal.spaceStatus().upkeep.writtenBytes < block, "nothing was copied once more")
    try fixture.close()
    try fixture.removeIndex()
    try fixture.open()
    for index in 0..<count {
      let found = Result { try fixture.disk.bytes(ByteRange(offset: 3 * index * block, count: block)) }
      let isRight = (try? found.get()) == content[Int(index)]
      #expect(isRight, "block \(index)")
    }
    #expect(try fixture.journal.livenessFlaw() == nil)
  }

  /// No space for the index's transaction behind a number of copies.
  private final class Fault: @unchecked Sendable {
    // Sendable: guarded by `lock`.
    private let lock = Lock()
    private var copiesLeft: Int?

    func arm(afterCopies count: Int) { lock.withLock { copiesLeft = count } }
    func disarm() { lock.withLock { copiesLeft = nil } }
    func copied() { lock.withLock { copiesLeft = copiesLeft.map { $0 - 1 } } }
    func outcome() -> Int32 { lock.withLock { copiesLeft.map { $0 <= 0 ? 28 : 0 } ?? 0 } }
  }
}
