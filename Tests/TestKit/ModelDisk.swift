package import Bytes

/// What a disk should hold, the simplest way: an array of bytes, and whether each sector was ever written.
package struct ModelDisk: Sendable {
  package private(set) var bytes: [UInt8]
  package private(set) var isWritten: [Bool]

  /// A disk of `sectorCount` sectors that nobody has written.
  package init(sectorCount: Int) {
    bytes = [UInt8](repeating: 0, count: sectorCount * 512)
    isWritten = [Bool](repeating: false, count: sectorCount)
  }

  package var byteCount: UInt64 { UInt64(bytes.count) }

  /// `payload` from byte `offset` on.
  package mutating func write(_ payload: [UInt8], at offset: UInt64) {
    bytes.replaceSubrange(Int(offset)..<Int(offset) + payload.count, with: payload)
    mark(ByteRange(offset: offset, count: UInt64(payload.count)).coveringSectors)
  }

  /// Zeroes, to the byte.
  package mutating func zero(_ range: ByteRange) {
    for index in Int(range.start)..<Int(range.end) { bytes[index] = 0 }
    mark(range.coveringSectors)
  }

  /// Whole sectors inside `range` read as zeroes.
  package mutating func trim(_ range: ByteRange) {
    let inner = range.enclosedSectors
    guard !inner.isEmpty else { return }
    zero(inner.bytes)
  }

  package func read(_ range: ByteRange) -> [UInt8] { Array(bytes[Int(range.start)..<Int(range.end)]) }

  private mutating func mark(_ sectors: SectorRange) {
    for sector in Int(sectors.start)..<Int(sectors.end) { isWritten[sector] = true }
  }
}
