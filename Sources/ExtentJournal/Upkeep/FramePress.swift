internal import Bytes
internal import Zstd

/// Takes frames apart and makes new ones, for upkeep. For one thread at a time.
final class FramePress: @unchecked Sendable {
  // Sendable: whoever does upkeep has it alone (Upkeep.work).
  private let compressor = ZstdCompressor()
  private let decompressor = ZstdDecompressor()
  private let raw = AlignedBuffer(byteCount: FrameHeader.rawBytesMax)
  private let gathered = AlignedBuffer(byteCount: FrameHeader.rawBytesMax)
  private let stored = AlignedBuffer(byteCount: FrameHeader.rawBytesMax)

  /// A frame's stored bytes: the first `byteCount` of `buffer`, until the next call.
  struct Pressed {
    var codec: Codec
    var level: Int8
    var buffer: AlignedBuffer
    var byteCount: Int
  }

  /// Compresses the sectors `runs` of the frame with this header and these stored bytes, one behind the other. Nil when the
  /// bytes are not what the header says.
  func press(
    _ runs: [Range<UInt32>], of header: FrameHeader, _ bytes: RawSpan, level: Int32
  ) -> Pressed? {
    var count = 0
    guard gather(runs, of: header, bytes, behind: &count) else { return nil }
    return press(gathered, byteCount: count, level: level)
  }

  /// Puts the sectors `runs` of a frame behind the `count` bytes that are gathered already. False when the bytes are not what
  /// the header says, or there is no room.
  func gather(
    _ runs: [Range<UInt32>], of header: FrameHeader, _ bytes: RawSpan, behind count: inout Int
  ) -> Bool {
    guard expand(header, bytes) else { return false }
    let source = raw
    let target = gathered
    var all = target.mutableBytes
    for run in runs {
      let from = Int(run.lowerBound) * Int(Sector.byteCount)
      let to = Int(run.upperBound) * Int(Sector.byteCount)
      guard to <= header.rawByteCount, count + to - from <= target.byteCount else { return false }
      all.copy(source.bytes.extracting(from..<to), at: count)
      count += to - from
    }
    return true
  }

  /// Compresses what is gathered. Nil when a quick try at level −1 says that it does not shrink.
  func pressGathered(byteCount: Int, level: Int32) -> Pressed? {
    guard press(gathered, byteCount: byteCount, level: -1).codec == .zstd else { return nil }
    let pressed = press(gathered, byteCount: byteCount, level: level)
    return pressed.codec == .zstd ? pressed : nil
  }

  private func press(_ source: AlignedBuffer, byteCount: Int, level: Int32) -> Pressed {
    let target = stored
    var all = target.mutableBytes
    var room = all._mutatingExtracting(0..<max(LevelLadder.storedBytesMax(byteCount), 1))
    if let size = compressor.compress(source.bytes.extracting(0..<byteCount), into: &room, level: level) {
      return Pressed(codec: .zstd, level: Int8(level), buffer: target, byteCount: size)
    }
    return Pressed(codec: .raw, level: 0, buffer: source, byteCount: byteCount)
  }

  private func expand(_ header: FrameHeader, _ bytes: RawSpan) -> Bool {
    let target = raw
    var all = target.mutableBytes
    switch header.codec {
    case .raw:
      guard bytes.byteCount == header.rawByteCount else { return false }
      all.copy(bytes, at: 0)
      return true
    case .zstd:
      var room = all._mutatingExtracting(0..<header.rawByteCount)
      return decompressor.decompress(bytes, into: &room)
    }
  }
}
