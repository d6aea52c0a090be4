internal import Bytes

/// What an export says about its requests, and how a range is cut into such as it takes.
///
/// Pure arithmetic: it decides, SourceConnection reads.
struct BlockSizes: Sendable, Equatable {
  /// Every request starts and ends on a multiple of this many bytes.
  var minimum: UInt64
  /// No request is larger, a multiple of `minimum`.
  var maximum: UInt64

  /// Requests are no larger than this whatever the export takes: it is the protocol's own default.
  static let requestBytesMax: UInt64 = 32 << 20

  /// From what libnbd tells: bytes, or 0 and less when the export says nothing.
  init(minimum: Int64, maximum: Int64) {
    self.minimum = minimum > 0 ? UInt64(minimum) : 1
    let most = maximum > 0 ? min(UInt64(maximum), Self.requestBytesMax) : Self.requestBytesMax
    self.maximum = max(most / self.minimum, 1) * self.minimum
  }

  /// The requests that together cover `range` of a disk of `diskByteCount` bytes, in order.
  ///
  /// Those that lie in `range` can be read in place; at most the first and the last reach beyond it.
  func requests(for range: ByteRange, diskByteCount: UInt64) -> [ByteRange] {
    var requests: [ByteRange] = []
    var position = range.start
    while position < range.end {
      let start = position / minimum * minimum
      var end: UInt64
      if start < position || range.end - start < minimum {
        end = start + minimum
      } else {
        end = min(range.end / minimum * minimum, start + maximum)
      }
      end = min(end, diskByteCount)
      requests.append(ByteRange(start: start, end: end))
      position = end
    }
    return requests
  }
}
