import Bytes
import ExtentJournal
import Foundation
import TestKit
import Testing

/// Goal: a segment that ends in a torn directory is told from a damaged one, whatever upkeep has made of the next.
/// Method: segments of two batches each; the first batch of the second segment is overwritten and punched, the first
/// segment's footer cut off, the index lost.
@Suite struct TornDirectoryTests {
  private static let block = 64 << 10

  private func content(_ index: Int) -> [UInt8] {
    var random = SeededGenerator(seed: UInt64(index))
    return (0..<Self.block).map { _ in UInt8(truncatingIfNeeded: random.next()) }
  }

  @Test("a segment without its footer is whole when the next begins with a hole")
  func nextIsPunched() throws {
    let fixture = try JournalFixture()
    try fixture.close()
    fixture.host.segmentBytesMax = 160 << 10
    fixture.host.upkeepLimits.punchedBytesMin = 32 << 10
    try fixture.open()
    try fixture.makeDisk("d", byteCount: 1 << 20, mode: .device)
    func write(_ index: Int, as version: Int) throws {
      try fixture.disk.write(content(version), at: UInt64(index * Self.block))
      try fixture.journal.flush()
    }
    for index in 0..<8 { try write(index, as: index) }
    // The second block of each pair stays.
    for index in [2, 3, 4, 5, 6] { try write(index, as: 10 + index) }
    for index in 0..<4 { try write(12 + index, as: 20 + index) }
    _ = try fixture.journal.upkeep()
    try fixture.close()

    let paths = fixture.segmentPaths.filter { $0.hasSuffix(".seg") }
    let files = try paths.map { Array(try Data(contentsOf: URL(fileURLWithPath: $0))) }
    func beginsWithHole(_ bytes: [UInt8]) -> Bool { bytes.span.bytes.extracting(8192..<16384).isAllZero }
    func hasHole(_ bytes: [UInt8]) -> Bool {
      stride(from: 4096, to: bytes.count - 12288, by: 4096).contains {
        bytes.span.bytes.extracting($0..<$0 + 4096).isAllZero
      }
    }
    let pair = try #require(
      files.indices.dropLast().first { !hasHole(files[$0]) && beginsWithHole(files[$0 + 1]) })
    try Data(files[pair].dropLast(SegmentFooter.byteCount)).write(to: URL(fileURLWithPath: paths[pair]))
    try fixture.removeIndex()
    try fixture.open()
    #expect(try fixture.journal.status().damage == nil)
    for index in 0..<8 {
      let version = [2, 3, 4, 5, 6].contains(index) ? 10 + index : index
      let isRight =
        try fixture.disk.bytes(ByteRange(offset: UInt64(index * Self.block), count: UInt64(Self.block)))
        == content(version)
      #expect(isRight, "block \(index)")
    }
  }
}
