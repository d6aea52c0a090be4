package import Bytes

/// A piece of a frame: which sectors, and the sequence of the record that brought them.
package struct FrameExtent: Equatable, Sendable {
  var range: SectorRange
  var sequence: UInt64

  /// An extent whose `range` has at most 512 sectors and starts below 2⁴⁸.
  package init(range: SectorRange, sequence: UInt64) {
    self.range = range
    self.sequence = sequence
  }

  static let byteCount = 16
}

/// How a frame's bytes are stored.
package enum Codec: UInt8, Sendable {
  case raw = 0
  case zstd = 1
}

/// The header of a frame item.
package struct FrameHeader: Equatable, Sendable {
  var codec: Codec
  var level: Int8
  var layer: LayerKey
  var storedByteCount: Int
  var payloadChecksum: UInt64
  var extents: [FrameExtent]

  static let magic: UInt32 = 0x5350_5746  // SPWF
  static let fixedByteCount = 40
  static let rawBytesMax = 256 << 10

  var rawByteCount: Int { extents.reduce(0) { $0 + Int($1.range.byteCount) } }
  /// Bytes of the header and its extents, without what is stored.
  package var byteCount: Int { Self.fixedByteCount + extents.count * FrameExtent.byteCount }
  /// Header, extents and stored bytes, without padding.
  package var itemByteCount: Int { byteCount + storedByteCount }

  /// Bytes of the header of a frame with `extents` extents.
  package static func byteCount(extents: Int) -> Int { fixedByteCount + extents * FrameExtent.byteCount }

  /// Writes the header to the start of `target`; `seed` is the segment's salt plus the item's offset. Returns the
  /// header's checksum, for the chain.
  package func encode(into target: inout MutableRawSpan, seed: UInt64) -> UInt64 {
    target.storeBigEndian(Self.magic, at: 0)
    target.storeBigEndian(codec.rawValue, at: 4)
    target.storeBigEndian(level, at: 5)
    target.storeBigEndian(UInt16(extents.count), at: 6)
    target.storeBigEndian(layer.disk.number, at: 8)
    target.storeBigEndian(layer.generation.number, at: 12)
    target.storeBigEndian(UInt32(rawByteCount), at: 16)
    target.storeBigEndian(UInt32(storedByteCount), at: 20)
    target.storeBigEndian(payloadChecksum, at: 24)
    var at = Self.fixedByteCount
    for extent in extents {
      target.storeBigEndian(extent.range.start << 16 | extent.range.count, at: at)
      target.storeBigEndian(extent.sequence, at: at + 8)
      at += FrameExtent.byteCount
    }
    let checksum = itemChecksum(target.bytes, fixed: 32, from: Self.fixedByteCount, to: at, seed: seed)
    target.storeBigEndian(checksum, at: 32)
    return checksum
  }

  /// Unchecked: 1 to 512 extents, together at most `rawBytesMax`.
  package init(
    codec: Codec, level: Int8, layer: LayerKey, storedByteCount: Int, payloadChecksum: UInt64,
    extents: [FrameExtent]
  ) {
    self.codec = codec
    self.level = level
    self.layer = layer
    self.storedByteCount = storedByteCount
    self.payloadChecksum = payloadChecksum
    self.extents = extents
  }

  /// Reads the header at the start of `bytes`. Nil when it is not one, or not whole.
  package init?(_ bytes: RawSpan, seed: UInt64) {
    guard bytes.byteCount >= Self.fixedByteCount, bytes.bigEndian(at: 0, as: UInt32.self) == Self.magic,
      let codec = Codec(rawValue: bytes.bigEndian(at: 4))
    else { return nil }
    let count = Int(bytes.bigEndian(at: 6, as: UInt16.self))
    let end = Self.byteCount(extents: count)
    guard count >= 1, count <= 512, bytes.byteCount >= end,
      itemChecksum(bytes, fixed: 32, from: Self.fixedByteCount, to: end, seed: seed)
        == bytes.bigEndian(at: 32, as: UInt64.self)
    else { return nil }
    self.codec = codec
    level = bytes.bigEndian(at: 5)
    layer = LayerKey(
      disk: DiskID(number: bytes.bigEndian(at: 8)), generation: GenerationID(number: bytes.bigEndian(at: 12)))
    storedByteCount = Int(bytes.bigEndian(at: 20, as: UInt32.self))
    payloadChecksum = bytes.bigEndian(at: 24)
    extents = []
    extents.reserveCapacity(count)
    for at in stride(from: Self.fixedByteCount, to: end, by: FrameExtent.byteCount) {
      let packed: UInt64 = bytes.bigEndian(at: at)
      extents.append(
        FrameExtent(
          range: SectorRange(start: packed >> 16, count: packed & 0xFFFF),
          sequence: bytes.bigEndian(at: at + 8)))
    }
    guard rawByteCount == Int(bytes.bigEndian(at: 16, as: UInt32.self)), rawByteCount <= Self.rawBytesMax,
      storedByteCount <= rawByteCount
    else { return nil }
  }
}
