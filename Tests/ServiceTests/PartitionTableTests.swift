import Bytes
import SpillwayService
import TestKit
import Testing

// Goal: partitions are found where tables of disks say, and no table of a hostile guest leads outside the disk.
// Method: tables made by hand, as sfdisk writes them; then the same with bytes at random.

@Suite struct PartitionTableTests {
  /// A disk of 64 MiB of which only what was written is held.
  private struct Image {
    static let byteCount: UInt64 = 64 << 20
    var bytes = [UInt8](repeating: 0, count: Int(Self.byteCount))

    mutating func put(_ value: UInt64, _ count: Int, at: Int) {
      for index in 0..<count { bytes[at + index] = UInt8(truncatingIfNeeded: value >> UInt64(8 * index)) }
    }

    /// An entry of an MBR or of a sector of its chain.
    mutating func entry(_ index: Int, inSector sector: Int, type: UInt8, start: UInt64, count: UInt64) {
      let at = sector * 512 + 446 + 16 * index
      bytes[at + 4] = type
      put(start, 4, at: at + 8)
      put(count, 4, at: at + 12)
      bytes[sector * 512 + 510] = 0x55
      bytes[sector * 512 + 511] = 0xAA
    }

    static func mbr() -> Image {
      var image = Image()
      image.entry(0, inSector: 0, type: 0x83, start: 2048, count: 20_480)
      image.entry(1, inSector: 0, type: 0x05, start: 30_720, count: 40_960)
      image.entry(0, inSector: 30_720, type: 0x83, start: 2048, count: 10_240)
      image.entry(1, inSector: 30_720, type: 0x05, start: 20_480, count: 20_480)
      image.entry(0, inSector: 51_200, type: 0x82, start: 2048, count: 8192)
      return image
    }

    static func gpt(unit: Int) -> Image {
      var image = Image()
      image.entry(0, inSector: 0, type: 0xEE, start: 1, count: 0xFFFF_FFFF)
      for (index, byte) in "EFI PART".utf8.enumerated() { image.bytes[unit + index] = byte }
      image.put(2, 8, at: unit + 72)
      image.put(128, 4, at: unit + 80)
      image.put(128, 4, at: unit + 84)
      for (index, sectors) in [(0, UInt64(4096)...8191), (2, 8192...10_239)] {
        image.put(0x1234, 16, at: 2 * unit + 128 * index)
        image.put(sectors.lowerBound, 8, at: 2 * unit + 128 * index + 32)
        image.put(sectors.upperBound, 8, at: 2 * unit + 128 * index + 40)
      }
      return image
    }

    var table: PartitionTable? {
      PartitionTable(of: Self.byteCount) { range in
        precondition(range.end <= Self.byteCount && range.count <= 5 << 20, "a read of \(range)")
        return Array(bytes[Int(range.start)..<Int(range.end)])
      }
    }
  }

  private func sectors(_ start: UInt64, _ count: UInt64, of unit: UInt64 = 512) -> ByteRange {
    ByteRange(offset: start * unit, count: count * unit)
  }

  @Test("an MBR has primary partitions, an extended one, and logical ones from 5 on")
  func mbr() throws {
    let table = try #require(Image.mbr().table)
    #expect(
      table.partitions == [
        1: sectors(2048, 20_480), 2: sectors(30_720, 40_960), 5: sectors(32_768, 10_240),
        6: sectors(53_248, 8192),
      ])
    #expect(table.tables == [sectors(30_720, 1), sectors(51_200, 1)])
    #expect(table.missing([1, 3, 6]) == [3])
    #expect(
      table.kept([6], of: Image.byteCount) == [
        ByteRange(start: 0, end: 1 << 20), sectors(30_720, 1), sectors(51_200, 1), sectors(53_248, 8192),
        ByteRange(start: 63 << 20, end: 64 << 20),
      ])
  }

  @Test("a GPT has its partitions by their places in it", arguments: [512, 4096])
  func gpt(unit: Int) throws {
    let table = try #require(Image.gpt(unit: unit).table)
    let size = UInt64(unit)
    #expect(
      table.partitions == [1: sectors(4096, 4096, of: size), 3: sectors(8192, 2048, of: size)])
    #expect(
      table.kept([3], of: Image.byteCount).contains { $0.intersection(sectors(8192, 2048, of: size)) != nil })
  }

  @Test("an empty disk and one without a signature have no table")
  func none() {
    #expect(Image().table == nil)
    var image = Image.mbr()
    image.bytes[510] = 0
    #expect(image.table == nil)
  }

  @Test("a table that leads in a circle or out of the disk is followed as far as is sane")
  func hostile() throws {
    var circle = Image.mbr()
    circle.entry(1, inSector: 51_200, type: 0x05, start: 20_480, count: 20_480)
    #expect(try #require(circle.table).partitions[1] != nil)
    var outside = Image.mbr()
    outside.entry(0, inSector: 0, type: 0x83, start: 2048, count: 0xFFFF_FFFF)
    #expect(try #require(outside.table).partitions[1] == nil)
    for seed in UInt64(1)...40 {
      var random = SeededGenerator(seed: seed)
      var image = seed % 2 == 0 ? Image.mbr() : Image.gpt(unit: 512)
      for _ in 0..<24 {
        let at = [0, 446, 512 + 64, 1024, 30_720 * 512 + 446].randomElement(using: &random)!
        image.bytes[at + Int.random(in: 0..<64, using: &random)] = .random(in: 0...255, using: &random)
      }
      for range in image.table?.partitions.values.map({ $0 }) ?? [] {
        #expect(range.end <= Image.byteCount, "seed \(seed)")
      }
    }
  }
}

@Suite struct InterestSpecificationTests {
  @Test("ranges are joined and put in order, partitions are sorted")
  func parses() throws {
    #expect(
      try InterestSpecification(parsing: "vda=5G-6G,0-1G,1G-2G").interest
        == .ranges([0..<2 << 30, 5 << 30..<6 << 30]))
    #expect(try InterestSpecification(parsing: "vda=part:3,1,3").interest == .partitions([1, 3]))
  }

  @Test(
    "what cannot be meant is refused",
    arguments: [
      "vda", "vda=", "vda=1G", "vda=2G-1G", "vda=1-", "vda=part:", "vda=part:0", "vda=part:x", "v/a=0-1",
    ])
  func refuses(_ text: String) {
    #expect(throws: ServiceError.self) { try InterestSpecification(parsing: text) }
  }
}
