internal import Bytes

// Which bytes of the segments somebody still needs: for each frame how many sectors the rows of the map refer to, over
// all generations, and for each segment the sums of its frames.
//
// 1. A reference is an entry of a row, whoever it belongs to. Two generations that share a frame count twice. What the past
//    still needs of a frame counts as well, though no row refers to it any more (IndexTables+Held).
// 2. A row counts until it is removed or written anew, also while a range row lies over it: the sweep that removes it takes
//    its references back. So what is freed is never more than what no row names.
// 3. The numbers change in the transaction that changes the rows, and nowhere else: at any moment they equal what a walk
//    over the map would count (`IndexTables.livenessFlaw`). A number that would fall below nothing is damage.
//
// The frames of 64 KiB of a segment share a row (a window): a frame is found by its place, and neighbours die together.
// A row for each frame would be as large as the map; this is a tenth of it.

/// A frame that some row refers to.
package struct LiveFrame: Equatable, Sendable {
  /// Where it lies.
  package var address: FrameAddress
  /// Sectors that are referred to; a sector that two rows refer to counts twice.
  package var sectors: UInt32

  /// Unchecked: `sectors` has at most 27 bits.
  package init(address: FrameAddress, sectors: UInt32) {
    self.address = address
    self.sectors = sectors
  }
}

/// The sums over the live frames of one segment.
package struct SegmentLiveness: Equatable, Sendable {
  /// Live frames.
  package var frames: UInt32 = 0
  /// The sum of their sizes in KiB, each rounded up.
  package var kibibytes: UInt32 = 0
  /// Sectors that are referred to.
  package var sectors: UInt64 = 0

  /// Of a segment that nothing refers to.
  package init() {}

  /// Nothing refers to the segment: it has no row.
  package var isEmpty: Bool { self == SegmentLiveness() }

  mutating func add(_ frame: LiveFrame) {
    frames += 1
    kibibytes += UInt32(frame.address.kibibytes)
    sectors += UInt64(frame.sectors)
  }

  mutating func remove(_ frame: LiveFrame) {
    frames &-= 1
    kibibytes &-= UInt32(frame.address.kibibytes)
    sectors &-= UInt64(frame.sectors)
  }

  /// The value of the segment's row.
  var encoded: [UInt8] {
    var bytes: [UInt8] = []
    bytes.appendBigEndian(frames)
    bytes.appendBigEndian(kibibytes)
    bytes.appendBigEndian(sectors)
    return bytes
  }

  init?(_ bytes: RawSpan) {
    guard bytes.byteCount == 16 else { return nil }
    frames = bytes.bigEndian(at: 0)
    kibibytes = bytes.bigEndian(at: 4)
    sectors = bytes.bigEndian(at: 8)
  }

  static func key(_ segment: UInt64) -> [UInt8] {
    var key: [UInt8] = []
    key.appendBigEndian(segment)
    return key
  }
}

/// The rows of the `frames` database: the live frames of one window each. Pure.
///
/// | bits | 12 | 9 | 27 |
/// |---|---|---|---|
/// | field | granule within the window | KiB | live sectors |
package enum LivenessRow {
  static let entryByteCount = 6
  /// Granules of a window: 64 KiB.
  private static let windowBits: UInt64 = 12
  /// The most that the field of live sectors holds.
  static let sectorsMax: UInt64 = 1 << 27 - 1

  /// The number of the window that the frame begins in: the segment, and 10 bits within it.
  static func window(_ address: FrameAddress) -> UInt64 {
    address.segment << 10 | UInt64(address.granule) >> windowBits
  }

  /// The first window of a segment.
  static func firstWindow(_ segment: UInt64) -> UInt64 { segment << 10 }

  static func segment(ofWindow window: UInt64) -> UInt64 { window >> 10 }

  static func key(_ window: UInt64) -> [UInt8] {
    var key: [UInt8] = []
    key.appendBigEndian(window)
    return key
  }

  /// The value for `frames` of one window, in order.
  package static func encode(_ frames: [LiveFrame]) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(frames.count * entryByteCount)
    for frame in frames {
      precondition(UInt64(frame.sectors) <= sectorsMax, "too many references to one frame")
      let place = UInt64(frame.address.granule) & (1 << windowBits - 1)
      let word = place << 36 | UInt64(frame.address.kibibytes) << 27 | UInt64(frame.sectors)
      bytes.appendBigEndian(UInt16(truncatingIfNeeded: word >> 32))
      bytes.appendBigEndian(UInt32(truncatingIfNeeded: word))
    }
    return bytes
  }

  /// The frames of the window; nil when the value is malformed.
  package static func decode(_ window: UInt64, _ bytes: RawSpan) -> [LiveFrame]? {
    guard bytes.byteCount > 0, bytes.byteCount % entryByteCount == 0 else { return nil }
    var frames: [LiveFrame] = []
    frames.reserveCapacity(bytes.byteCount / entryByteCount)
    for at in stride(from: 0, to: bytes.byteCount, by: entryByteCount) {
      let word =
        UInt64(bytes.bigEndian(at: at, as: UInt16.self)) << 32
        | UInt64(bytes.bigEndian(at: at + 2, as: UInt32.self))
      let granule = (window & 0x3FF) << windowBits | word >> 36
      let frame = LiveFrame(
        address: FrameAddress(
          segment: window >> 10, granule: UInt32(granule), kibibytes: UInt16(word >> 27 & 511)),
        sectors: UInt32(word & sectorsMax))
      guard frame.sectors > 0, frames.last.map({ $0.address.granule < frame.address.granule }) ?? true else {
        return nil
      }
      frames.append(frame)
    }
    return frames
  }
}

/// What some changes of rows do to the frames that the rows refer to.
struct LivenessChange {
  private(set) var frames: [FrameAddress: Int64] = [:]

  /// Counts the references of `entries`: `sign` is 1 for what comes and -1 for what goes.
  mutating func count(_ entries: [IndexEntry], _ sign: Int64) {
    for entry in entries {
      guard case .frame(let address, _) = entry.placement else { continue }
      frames[address, default: 0] += sign * Int64(entry.count)
    }
  }

  /// What of it is superseded and held for the past: it stays counted.
  private(set) var held: [FrameAddress: Int64] = [:]

  /// Holds what `superseded` says, which was counted as gone.
  mutating func hold(_ superseded: [FrameAddress: Int64]) {
    for (address, sectors) in superseded {
      frames[address, default: 0] += sectors
      held[address, default: 0] += sectors
    }
  }

  /// Counts what was held and is needed no more as gone.
  mutating func letGo(_ address: FrameAddress, _ sectors: UInt32) {
    frames[address, default: 0] -= Int64(sectors)
  }

  /// What is not as it was.
  var changed: [(FrameAddress, Int64)] { frames.compactMap { $0.value == 0 ? nil : ($0.key, $0.value) } }
}

/// What the changes of one transaction do to frames, by window.
struct LivenessChanges {
  private(set) var windows: [UInt64: [FrameAddress: Int64]] = [:]
  /// See `LivenessChange.held`.
  private(set) var held: [FrameAddress: Int64] = [:]
  private var segments: Set<UInt64> = []

  /// How many rows `change` makes this transaction touch that it does not touch yet.
  func newRowCount(_ change: LivenessChange) -> Int {
    var news: Set<UInt64> = []
    var newSegments: Set<UInt64> = []
    for (address, delta) in change.frames where delta != 0 {
      let window = LivenessRow.window(address)
      if windows[window] == nil { news.insert(window) }
      if !segments.contains(address.segment) { newSegments.insert(address.segment) }
    }
    return news.count + newSegments.count
  }

  mutating func add(_ change: LivenessChange) {
    for (address, delta) in change.frames where delta != 0 {
      windows[LivenessRow.window(address), default: [:]][address, default: 0] += delta
      segments.insert(address.segment)
    }
    for (address, sectors) in change.held { held[address, default: 0] += sectors }
  }
}
