internal import Bytes

extension SourceConnection {
  /// Bit 0 of the flags of a `qemu:dirty-bitmap` context.
  private static var dirty: UInt32 { 1 }
  /// Bytes asked about at once: what a request can say, and a multiple of every block size.
  private static var askedBytesMax: UInt64 { 1 << 30 }

  /// The ranges that `context` calls dirty, merged, ascending; the context was asked for when connecting.
  func dirtyRanges(
    of context: String, diskByteCount: UInt64, unit: UInt64
  ) throws(Failure) -> [ByteRange] {
    var ranges: [ByteRange] = []
    var position: UInt64 = 0
    while position < diskByteCount {
      let count = min(diskByteCount - position, Self.askedBytesMax / unit * unit)
      let start = position
      for extent in try extents(of: context, at: position, byteCount: count) {
        // A server may say more than it was asked, never about what is not there.
        let end = min(position + extent.byteCount, diskByteCount)
        if extent.flags & Self.dirty != 0, end > position {
          if let last = ranges.last, last.end == position {
            ranges[ranges.count - 1].end = end
          } else {
            ranges.append(ByteRange(start: position, end: end))
          }
        }
        position = end
      }
      guard position > start else { throw .refused("the server says nothing about offset \(start)") }
    }
    return ranges
  }
}
