import Bytes
import Testing

private func isZero(_ bytes: [UInt8]) -> Bool { bytes.span.bytes.isAllZero }

@Suite struct QuantityTests {
  @Test(
    "sizes are read as people write them",
    arguments: [
      ("512", 512), ("64K", 65536), ("64k", 65536), ("10G", 10 << 30), ("2T", 2 << 40), ("0", 0),
    ] as [(String, UInt64)])
  func sizes(text: String, bytes: UInt64) {
    #expect(ByteCount.parse(text) == bytes)
  }

  @Test(
    "what is no size is refused",
    arguments: ["", "K", "-1", "1.5G", "10GB", "1 K", "0x10", "9223372036854775808", "9000000P", "١"])
  func noSizes(text: String) {
    #expect(ByteCount.parse(text) == nil)
  }

  @Test(
    "sizes are written with a unit and at most one decimal",
    arguments: [
      (0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (1 << 20, "1 MiB"),
      ((1 << 30) - 1, "1 GiB"), (3 << 40, "3 TiB"),
    ] as [(UInt64, String)])
  func texts(bytes: UInt64, text: String) {
    #expect(ByteCount.text(bytes) == text)
  }

  @Test("sectors around a byte range cover it, and those inside it do not leave it")
  func sectors() {
    for start in 0..<1100 as Range<UInt64> {
      for end in stride(from: start, through: 2100, by: 7) {
        let range = ByteRange(start: start, end: end)
        let covering = range.coveringSectors.bytes
        #expect(covering.start <= start && start - covering.start < 512)
        #expect(covering.end >= end && covering.end - end < 512)
        let inner = range.enclosedSectors
        #expect(inner.isEmpty || (inner.bytes.start >= start && inner.bytes.end <= end))
        #expect(inner.isEmpty == (end / 512 <= (start + 511) / 512))
      }
    }
  }

  @Test("a zero scan sees one set byte anywhere")
  func zeroScan() {
    for count in [0, 1, 31, 32, 33, 64, 100] {
      var bytes = [UInt8](repeating: 0, count: count)
      #expect(isZero(bytes))
      for index in 0..<count {
        bytes[index] = 1
        #expect(!isZero(bytes))
        bytes[index] = 0
      }
    }
  }

  @Test("big-endian integers come back as they were stored")
  func bigEndian() {
    var bytes: [UInt8] = []
    bytes.appendBigEndian(UInt16(0x0102))
    bytes.appendBigEndian(UInt64(0x0304_0506_0708_090A))
    bytes.appendBigEndian(Int8(-1))
    #expect(bytes == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 255])
    #expect(bytes.bigEndian(at: 2, as: UInt64.self) == 0x0304_0506_0708_090A)
    #expect(bytes.bigEndian(at: 10, as: UInt16.self) == nil)
  }
}
