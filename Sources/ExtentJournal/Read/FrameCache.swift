internal import Bytes

/// Decompressed frames within a budget of bytes. For one thread at a time: FrameReader's lock guards it.
///
/// A few buffers of frames that went, and that nobody reads, are kept for those that come.
struct FrameCache {
  private var frames: SecondChanceCache<FrameAddress, FrameReader.Frame>
  private var spares: [AlignedBuffer] = []

  private static let sparesMax = 16

  init(byteCountMax: Int) { frames = SecondChanceCache(byteCountMax: byteCountMax) }

  /// The frame at `address`, if it is here.
  mutating func find(_ address: FrameAddress) -> FrameReader.Frame? { frames.find(address) }

  /// Adds a frame that is not here; others go.
  mutating func add(_ frame: FrameReader.Frame, at address: FrameAddress) {
    keepSpares(frames.add(frame, for: address, byteCount: frame.bytes.byteCount))
  }

  /// Makes do with `byteCountMax` bytes from now on.
  mutating func limit(to byteCountMax: Int) {
    frames.byteCountMax = byteCountMax
    keepSpares(frames.shrink())
  }

  private mutating func keepSpares(_ gone: [FrameReader.Frame]) {
    for frame in gone where spares.count < Self.sparesMax && frame.readers == 0 { spares.append(frame.bytes) }
  }

  /// A buffer for a frame of `byteCount` bytes, if one of that size is left over. Whoever takes it has it alone.
  mutating func spareBuffer(byteCount: Int) -> AlignedBuffer? {
    let wanted = Self.roomByteCount(byteCount)
    guard let index = spares.lastIndex(where: { $0.byteCount == wanted }) else { return nil }
    return spares.remove(at: index)
  }

  /// The size of a buffer for `byteCount` bytes: few sizes, so that one can follow another.
  static func roomByteCount(_ byteCount: Int) -> Int {
    var room = 4096
    while room < byteCount { room *= 2 }
    return room
  }
}
