package import Bytes

// Where the partitions of a disk lie, as its own table says: an MBR with its chain of logical partitions, or a GPT.
//
// Everything comes from the disk of a guest that nobody trusts: what lies outside the disk is left out, and chains and
// tables are only followed as far as a sane one goes.

/// The partitions of a disk.
package struct PartitionTable: Equatable {
  /// By number, from 1: the bytes of each.
  package var partitions: [Int: ByteRange] = [:]
  /// What the table itself takes besides the first and the last MiB of the disk.
  package var tables: [ByteRange] = []

  /// The ends of a disk that programs look at to find out what is on it.
  static let endByteCount: UInt64 = 1 << 20

  private static let entriesMax: UInt64 = 1024
  private static let chainMax = 128

  /// Reads the table of a disk of `byteCount` bytes through `read`; nil when there is none.
  package init?<Failure: Error>(
    of byteCount: UInt64, _ read: (ByteRange) throws(Failure) -> [UInt8]
  ) throws(Failure) {
    guard byteCount >= 2 * Sector.byteCount else { return nil }
    let first = try read(ByteRange(offset: 0, count: Sector.byteCount))
    guard first[510] == 0x55, first[511] == 0xAA else { return nil }
    if Self.entries(first).contains(where: { $0.type == 0xEE }) {
      for unit in [UInt64(512), 4096] where byteCount >= 3 * unit {
        if try addGPT(byteCount, unit, read) { return }
      }
      return nil
    }
    try addMBR(first, byteCount, read)
    guard !partitions.isEmpty else { return nil }
  }

  /// The numbers that `wanted` has and the table has not.
  package func missing(_ wanted: [Int]) -> [Int] { wanted.filter { partitions[$0] == nil } }

  /// What of a disk of `byteCount` bytes is to be kept for the partitions `wanted`: ascending, apart.
  package func kept(_ wanted: [Int], of byteCount: UInt64) -> [ByteRange] {
    let ends = [
      ByteRange(start: 0, end: min(byteCount, Self.endByteCount)),
      ByteRange(start: byteCount - min(byteCount, Self.endByteCount), end: byteCount),
    ]
    var joined: [ByteRange] = []
    for range in (wanted.compactMap { partitions[$0] } + tables + ends).sorted(by: { $0.start < $1.start }) {
      if let last = joined.last, last.end >= range.start {
        joined[joined.count - 1].end = max(last.end, range.end)
      } else {
        joined.append(range)
      }
    }
    return joined
  }

  // MARK: - MBR

  private struct Entry {
    var type: UInt8
    var start: UInt64
    var count: UInt64
    var isExtended: Bool { type == 0x05 || type == 0x0F || type == 0x85 }
  }

  private static func entries(_ sector: [UInt8]) -> [Entry] {
    (0..<4).map { index in
      let at = 446 + 16 * index
      return Entry(
        type: sector[at + 4], start: littleEndian(sector, at + 8, 4), count: littleEndian(sector, at + 12, 4))
    }
  }

  private mutating func addMBR<Failure: Error>(
    _ first: [UInt8], _ byteCount: UInt64, _ read: (ByteRange) throws(Failure) -> [UInt8]
  ) throws(Failure) {
    for (index, entry) in Self.entries(first).enumerated() where entry.type != 0 {
      add(index + 1, sector: entry.start, count: entry.count, 512, byteCount)
      if entry.isExtended { try addLogical(entry, byteCount, read) }
    }
  }

  /// Follows the chain of an extended partition; its partitions are numbered from 5.
  private mutating func addLogical<Failure: Error>(
    _ extended: Entry, _ byteCount: UInt64, _ read: (ByteRange) throws(Failure) -> [UInt8]
  ) throws(Failure) {
    var at = extended.start
    var number = (partitions.keys.max() ?? 0) < 5 ? 5 : (partitions.keys.max() ?? 4) + 1
    for _ in 0..<Self.chainMax {
      guard let place = Self.range(at, 1, 512, byteCount) else { return }
      let sector = try read(place)
      guard sector[510] == 0x55, sector[511] == 0xAA else { return }
      tables.append(place)
      let entries = Self.entries(sector)
      if entries[0].type != 0 {
        add(number, sector: at + entries[0].start, count: entries[0].count, 512, byteCount)
        number += 1
      }
      guard entries[1].isExtended, entries[1].start > 0 else { return }
      at = extended.start + entries[1].start
    }
  }

  // MARK: - GPT

  /// Adds the partitions of a GPT of sectors of `unit` bytes. False when there is none.
  private mutating func addGPT<Failure: Error>(
    _ byteCount: UInt64, _ unit: UInt64, _ read: (ByteRange) throws(Failure) -> [UInt8]
  ) throws(Failure) -> Bool {
    let header = try read(ByteRange(offset: unit, count: 512))
    guard header[0..<8].elementsEqual("EFI PART".utf8) else { return false }
    let count = min(Self.littleEndian(header, 80, 4), Self.entriesMax)
    let size = Self.littleEndian(header, 84, 4)
    guard size >= 128, size <= 4096, count > 0,
      let place = Self.range(
        Self.littleEndian(header, 72, 8), (count * size + unit - 1) / unit, unit, byteCount)
    else { return false }
    let table = try read(place)
    tables += [ByteRange(offset: 0, count: 2 * unit), place]
    for index in 0..<Int(count) {
      let at = index * Int(size)
      guard table[at..<at + 16].contains(where: { $0 != 0 }) else { continue }
      let first = Self.littleEndian(table, at + 32, 8)
      let last = Self.littleEndian(table, at + 40, 8)
      guard last >= first, last < UInt64.max else { continue }
      add(index + 1, sector: first, count: last - first + 1, unit, byteCount)
    }
    return true
  }

  // MARK: - Numbers

  private mutating func add(
    _ number: Int, sector: UInt64, count: UInt64, _ unit: UInt64, _ byteCount: UInt64
  ) {
    if let range = Self.range(sector, count, unit, byteCount) { partitions[number] = range }
  }

  /// The bytes of `count` sectors from `sector` on; nil unless they lie in the disk.
  private static func range(
    _ sector: UInt64, _ count: UInt64, _ unit: UInt64, _ byteCount: UInt64
  ) -> ByteRange? {
    let (start, startIsOver) = sector.multipliedReportingOverflow(by: unit)
    let (length, lengthIsOver) = count.multipliedReportingOverflow(by: unit)
    guard !startIsOver, !lengthIsOver, length > 0, start < byteCount, length <= byteCount - start else {
      return nil
    }
    return ByteRange(offset: start, count: length)
  }

  private static func littleEndian(_ bytes: [UInt8], _ at: Int, _ count: Int) -> UInt64 {
    bytes[at..<at + count].reversed().reduce(0) { $0 << 8 | UInt64($1) }
  }
}
