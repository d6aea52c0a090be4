/// How the frames of a batch are stored.
package enum PackingEffort: Sendable, Equatable {
  /// Compressed at this zstd level, where that pays.
  case level(Int32)
  /// As they are. Level 0 in their headers says that they are worth compressing one day.
  case raw
}

/// How much work the next frames get: the fuller the ring, the less. On data of virtual machines each step buys a fifth to
/// a third more speed for a tenth more bytes.
///
/// Storing raw is no step for a full ring: that already slows the writer down to what the packers can do. It is one for
/// a FLUSH, whose client may hold up a guest: while much is left to spill for it and the disk waits for the packers,
/// frames are stored as they are. As soon as the disk is the slower one they are compressed again, which then costs
/// nothing (docs/decisions/0004).
package enum LevelLadder {
  /// With no more than this left to spill, compressing takes about as long as a sync: 24 MiB.
  package static let flushShallowByteCount = 24 << 20

  /// The effort for the next batch, with a ring filled to `used` of `capacity` bytes. `flushByteCount` is what a FLUSH
  /// still waits for (0 when none does), `diskHasWaited` whether the disk had nothing to do before its last batch.
  package static func effort(
    used: UInt64, capacity: UInt64, flushByteCount: Int, diskHasWaited: Bool
  ) -> PackingEffort {
    if flushByteCount > flushShallowByteCount, diskHasWaited { return .raw }
    switch used * 100 / max(capacity, 1) {
    case 0..<25: return .level(3)
    case 25..<50: return .level(1)
    case 50..<75: return .level(-1)
    default: return .level(-5)
    }
  }

  /// The most bytes that a compressed frame of `rawByteCount` may have to be worth decompressing.
  static func storedBytesMax(_ rawByteCount: Int) -> Int { rawByteCount - rawByteCount / 16 }
}
