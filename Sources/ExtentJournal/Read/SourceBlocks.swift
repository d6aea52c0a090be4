internal import Bytes
internal import Threads

// What was read from sources and found to be content of the moment, within a budget of bytes.
//
// A sector is valid in a block when the journal lacked it after the source was read, while the job lived. Then the
// source's bytes were those of the moment that the job protects, and what was so then is so for ever: blocks are never
// invalidated. Only a sector that has arrived since is read from the journal, which says the same.

/// 64 KiB of a source, and which sectors of it are known to be content of the moment. Constant.
final class SourceBlock: Sendable {
  /// Sectors of a block.
  static let sectorCount: UInt64 = 128
  /// Bytes of a block.
  static let byteCount: UInt64 = sectorCount * Sector.byteCount

  private let first: UInt64
  private let bytes: AlignedBuffer
  private let valid: UInt128

  /// Block `index`, of which `source` has the bytes from its start, as far as the disk goes; `valid` are sectors of it.
  init(_ index: UInt64, _ source: RawSpan, valid ranges: [SectorRange]) {
    first = index * Self.sectorCount
    let buffer = AlignedBuffer(byteCount: Int(Self.byteCount))
    var target = buffer.mutableBytes
    target.copy(source, at: 0)
    bytes = buffer
    var mask: UInt128 = 0
    for range in ranges { mask |= Self.mask(range, first) }
    valid = mask
  }

  /// The bytes of `range`, which lies in the block, if all of it is valid.
  func hasBytes(of range: SectorRange) -> Bool {
    let wanted = Self.mask(range, first)
    return valid & wanted == wanted
  }

  /// Copies the bytes of `part`, which lies in valid sectors, to `offset` of `target`.
  func copy(_ part: ByteRange, to target: inout MutableRawSpan, at offset: Int) {
    let start = Int(part.start - first * Sector.byteCount)
    let buffer = bytes
    target.copy(buffer.bytes.extracting(start..<start + Int(part.count)), at: offset)
  }

  private static func mask(_ range: SectorRange, _ first: UInt64) -> UInt128 {
    let count = range.count
    let ones = count == sectorCount ? UInt128.max : (UInt128(1) << UInt128(count)) - 1
    return ones << UInt128(range.start - first)
  }

  /// `range` in pieces that each lie in one block.
  static func pieces(of range: SectorRange) -> [(block: UInt64, range: SectorRange)] {
    var pieces: [(UInt64, SectorRange)] = []
    var start = range.start
    while start < range.end {
      let block = start / sectorCount
      let end = min(range.end, (block + 1) * sectorCount)
      pieces.append((block, SectorRange(start: start, end: end)))
      start = end
    }
    return pieces
  }
}

/// The blocks of all sources of a journal.
final class SourceBlocks: @unchecked Sendable {
  // Sendable: the cache is guarded by `lock`.
  private let lock = Lock()
  private var cache: SecondChanceCache<Key, SourceBlock>

  /// Most bytes of blocks; the frame cache has as much less while a disk has a source.
  static let byteCountMax = 16 << 20

  private struct Key: Hashable {
    var layer: LayerKey
    var block: UInt64
  }

  /// A stretch of valid sectors, and the block that has its bytes.
  typealias Piece = (range: SectorRange, block: SourceBlock)

  init(byteCountMax: Int = byteCountMax) { cache = SecondChanceCache(byteCountMax: byteCountMax) }

  /// Valid bytes of all of `ranges`, or nil when there are not of all.
  func find(_ layer: LayerKey, _ ranges: [SectorRange]) -> [Piece]? {
    lock.withLock {
      var found: [Piece] = []
      for range in ranges {
        for (index, piece) in SourceBlock.pieces(of: range) {
          guard let block = cache.find(Key(layer: layer, block: index)), block.hasBytes(of: piece) else {
            return nil
          }
          found.append((piece, block))
        }
      }
      return found
    }
  }

  /// Keeps `block`, in place of what it was known by before: the journal has what is valid no more.
  func add(_ block: SourceBlock, _ layer: LayerKey, _ index: UInt64) {
    let key = Key(layer: layer, block: index)
    // What goes is freed after the lock was given back.
    _ = lock.withLock { cache.add(block, for: key, byteCount: Int(SourceBlock.byteCount)) }
  }

  /// Forgets what it has of `layer`.
  func forget(_ layer: LayerKey) { lock.withLock { cache.remove { $0.layer == layer } } }
}
