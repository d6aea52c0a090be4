internal import Bytes

/// A region of a disk: 512 KiB, one row of the index.
enum Region {
  static let sectorCount: UInt64 = 1024
  /// More regions than the largest disk has: a frame says sectors in 48 bits.
  static let indexMax: UInt64 = 1 << 38
  /// Parts of a split region and the sectors of each.
  static let partCount = 8
  static let partSectorCount: UInt64 = 128

  /// The regions that `range` touches.
  static func indices(_ range: SectorRange) -> Range<UInt64> {
    range.isEmpty ? 0..<0 : range.start / sectorCount..<(range.end - 1) / sectorCount + 1
  }

  static func range(_ index: UInt64) -> SectorRange {
    SectorRange(start: index * sectorCount, count: sectorCount)
  }
}

/// The rows of the `map` database: keys, values, and the merge of new extents into them. Pure.
///
/// Why the limits: LMDB 0.9 keeps a node (8 bytes, key, value) inside a page only up to 2038 bytes; beyond, the value
/// moves to pages of its own and the packing is lost. With a 16-byte key that leaves 2014 for the value.
package enum RegionRow {
  static let version: UInt8 = 1
  static let splitFlag: UInt8 = 1
  static let headerByteCount = 4
  /// Most entries of a row that is not split.
  package static let entriesMax = 160

  /// The key of part `part` (0: the region, 1 to 8: its parts when split).
  package static func key(_ layer: LayerKey, region: UInt64, part: UInt8) -> [UInt8] {
    var key: [UInt8] = []
    key.reserveCapacity(16)
    key.appendBigEndian(layer.disk.number)
    key.appendBigEndian(layer.generation.number)
    key.appendBigEndian(region << 8 | UInt64(part))
    return key
  }

  /// What a key says; nil when it is none.
  package static func parse(_ key: RawSpan) -> (layer: LayerKey, region: UInt64, part: UInt8)? {
    guard key.byteCount == 16 else { return nil }
    let layer = LayerKey(
      disk: DiskID(number: key.bigEndian(at: 0)), generation: GenerationID(number: key.bigEndian(at: 4)))
    let last: UInt64 = key.bigEndian(at: 8)
    return (layer, last >> 8, UInt8(truncatingIfNeeded: last))
  }

  /// The values of a region's rows: part 0, and parts 1 to 8 when the entries need it.
  package static func encode(_ entries: [IndexEntry]) -> [(part: UInt8, value: [UInt8])] {
    if entries.count <= entriesMax { return [(0, value(entries[...], flags: 0))] }
    var rows: [(part: UInt8, value: [UInt8])] = [(0, value([], flags: splitFlag))]
    for part in 0..<partBounds.count - 1 {
      let low = partBounds[part]
      let high = partBounds[part + 1]
      let cut = entries.compactMap { clip($0, low, high) }
      rows.append((UInt8(part + 1), value(cut[...], flags: 0)))
    }
    return rows
  }

  private static let partBounds = (0...Region.partCount).map { UInt16($0) * UInt16(Region.partSectorCount) }

  private static func value(_ entries: ArraySlice<IndexEntry>, flags: UInt8) -> [UInt8] {
    var bytes: [UInt8] = [version, flags]
    bytes.reserveCapacity(headerByteCount + entries.count * IndexEntry.byteCount)
    bytes.appendBigEndian(UInt16(entries.count))
    for entry in entries {
      let bits = entry.bits
      bytes.appendBigEndian(bits.high)
      bytes.appendBigEndian(bits.low)
    }
    return bytes
  }

  /// Whether `value` says that the region's entries are in its parts.
  static func isSplit(_ value: RawSpan) -> Bool {
    value.byteCount >= headerByteCount && value.bigEndian(at: 1, as: UInt8.self) & splitFlag != 0
  }

  /// The entries of one row; nil when the value is malformed.
  package static func decode(_ value: RawSpan) -> [IndexEntry]? {
    guard value.byteCount >= headerByteCount, value.bigEndian(at: 0, as: UInt8.self) == version else {
      return nil
    }
    let count = Int(value.bigEndian(at: 2, as: UInt16.self))
    guard value.byteCount == headerByteCount + count * IndexEntry.byteCount else { return nil }
    var entries: [IndexEntry] = []
    entries.reserveCapacity(count)
    for index in 0..<count {
      let at = headerByteCount + index * IndexEntry.byteCount
      guard let entry = IndexEntry(high: value.bigEndian(at: at), low: value.bigEndian(at: at + 8)),
        entries.last.map({ $0.end <= entry.start }) ?? true
      else { return nil }
      entries.append(entry)
    }
    return entries
  }

  /// `old` with `new` on top; both sorted and without overlaps. Neighbours that continue each other join.
  package static func merge(_ old: [IndexEntry], _ new: [IndexEntry]) -> [IndexEntry] {
    var result: [IndexEntry] = []
    result.reserveCapacity(old.count + new.count)
    func add(_ entry: IndexEntry) {
      if let last = result.last, last.end == entry.start,
        last.placement.advanced(by: UInt64(last.count)) == entry.placement
      {
        result[result.count - 1].count += entry.count
      } else {
        result.append(entry)
      }
    }
    var index = 0
    var position: UInt16 = 0  // everything of `old` before this is dealt with
    func addOld(upTo end: UInt16) {
      while index < old.count, old[index].start < end {
        if let piece = clip(old[index], position, end) { add(piece) }
        if old[index].end > end { break }
        index += 1
      }
    }
    for entry in new {
      addOld(upTo: entry.start)
      add(entry)
      position = entry.end
    }
    addOld(upTo: UInt16(Region.sectorCount))
    return result
  }

  /// The part of `entry` in [low, high), or nil.
  package static func clip(_ entry: IndexEntry, _ low: UInt16, _ high: UInt16) -> IndexEntry? {
    let start = max(entry.start, low)
    let end = min(entry.end, high)
    guard start < end else { return nil }
    return IndexEntry(
      start: start, count: end - start, placement: entry.placement.advanced(by: UInt64(start - entry.start)))
  }
}
