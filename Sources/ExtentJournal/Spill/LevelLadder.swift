/// How much work the next frames get, and from whom.
package struct PackingEffort: Sendable, Equatable {
  /// The zstd level; what does not shrink by a sixteenth is stored as it is.
  package var level: Int32
  /// Whether somebody waits for it: then threads of ordinary priority help.
  package var isUrgent: Bool

  /// Any level, urgent or not.
  package init(level: Int32, isUrgent: Bool) {
    self.level = level
    self.isUrgent = isUrgent
  }
}

/// How much work the next frames get: the fuller the ring, the less. On data of virtual machines each step buys a fifth to
/// a third more speed for a tenth more bytes.
///
/// For a FLUSH, whose client may hold up a guest, the emptying ring must not raise the level again: while much is left to
/// spill for it and the disk waits for the packers, the last step holds. As soon as the disk is the slower one more is
/// compressed again, which then costs nothing (docs/decisions/0004).
package enum LevelLadder {
  /// With no more than this left to spill, compressing takes about as long as a sync: 24 MiB.
  package static let flushShallowByteCount = 24 << 20

  /// The effort for the next batch, with a ring filled to `used` of `capacity` bytes. `flushByteCount` is what a FLUSH
  /// still waits for (0 when none does), `diskHasWaited` whether the disk had nothing to do before its last batch.
  package static func effort(
    used: UInt64, capacity: UInt64, flushByteCount: Int, diskHasWaited: Bool
  ) -> PackingEffort {
    let percent = used * 100 / max(capacity, 1)
    let isUrgent = flushByteCount > 0 || percent >= 75
    if flushByteCount > flushShallowByteCount, diskHasWaited {
      return PackingEffort(level: -5, isUrgent: true)
    }
    let level: Int32 =
      switch percent {
      case 0..<25: 3
      case 25..<50: 1
      case 50..<75: -1
      default: -5
      }
    return PackingEffort(level: level, isUrgent: isUrgent)
  }

  /// The most bytes that a compressed frame of `rawByteCount` may have to be worth decompressing.
  static func storedBytesMax(_ rawByteCount: Int) -> Int { rawByteCount - rawByteCount / 16 }
}
