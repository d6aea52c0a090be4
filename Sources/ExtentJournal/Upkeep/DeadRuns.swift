internal import Bytes

/// Which runs of a segment nobody needs. Pure.
package enum DeadRuns {
  /// The runs of `groups` (bytes of the segment) that none of `live`, in the order of their places, lies in: on multiples of
  /// 4096, each of `byteCountMin` bytes at least, the first `countMax` of them.
  ///
  /// What lies between frames, records and the ends of groups, counts as dead: a sealed segment's directory repeats it.
  package static func find(
    in groups: Range<UInt64>, live: [LiveFrame], byteCountMin: UInt64, countMax: Int
  ) -> [Range<UInt64>] {
    var runs: [Range<UInt64>] = []
    var position = groups.lowerBound
    func add(to end: UInt64) {
      let low = position.roundedUp(to: AlignedBuffer.alignment)
      let high = end / UInt64(AlignedBuffer.alignment) * UInt64(AlignedBuffer.alignment)
      if low < high, high - low >= byteCountMin, runs.count < countMax { runs.append(low..<high) }
    }
    for frame in live {
      let start = UInt64(frame.address.granule) * FrameAddress.granuleByteCount
      add(to: min(start, groups.upperBound))
      position = max(position, start + UInt64(frame.address.kibibytes) * 1024)
    }
    add(to: groups.upperBound)
    return runs
  }
}
