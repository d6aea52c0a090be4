internal import Bytes
internal import DequeModule

/// Decompressed frames within a budget of bytes. For one thread at a time: FrameReader's lock guards it.
///
/// The frame that came first goes first, unless it was wanted again meanwhile: then it has another turn. So one pass over a
/// whole disk does not push out what others keep reading. A few buffers of frames that went, and that nobody reads, are
/// kept for those that come.
struct FrameCache {
  private let byteCountMax: Int
  private var entries: [FrameAddress: Entry] = [:]
  private var order = Deque<FrameAddress>()
  private var byteCount = 0
  private var spares: [AlignedBuffer] = []

  private static let sparesMax = 16

  private struct Entry {
    var frame: FrameReader.Frame
    var wasWanted = false
  }

  init(byteCountMax: Int) { self.byteCountMax = byteCountMax }

  /// The frame at `address`, if it is here.
  mutating func find(_ address: FrameAddress) -> FrameReader.Frame? {
    guard let index = entries.index(forKey: address) else { return nil }
    entries.values[index].wasWanted = true
    return entries.values[index].frame
  }

  /// Adds a frame that is not here; others go.
  mutating func add(_ frame: FrameReader.Frame, at address: FrameAddress) {
    entries[address] = Entry(frame: frame)
    order.append(address)
    byteCount += frame.bytes.byteCount
    while byteCount > byteCountMax, let oldest = order.popFirst() {
      guard var entry = entries.removeValue(forKey: oldest) else { continue }
      if entry.wasWanted {
        entry.wasWanted = false
        entries[oldest] = entry
        order.append(oldest)
        continue
      }
      byteCount -= entry.frame.bytes.byteCount
      if spares.count < Self.sparesMax, entry.frame.readers == 0 { spares.append(entry.frame.bytes) }
    }
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
