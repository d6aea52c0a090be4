/// What each segment takes on disk, as far as that is settled. The newest of each kind may grow at any time; what another takes
/// changes only with a word (`unsettle`). Pure; for one thread at a time.
package struct SegmentSizes: Sendable {
  /// A segment file.
  package struct Key: Hashable, Sendable {
    /// Its number, which no other segment has.
    package var number: UInt64
    /// Whether it holds fresh batches or moved data.
    package var kind: SegmentKind

    /// Unchecked.
    package init(number: UInt64, kind: SegmentKind) {
      self.number = number
      self.kind = kind
    }
  }

  /// Segments whose size has to be asked.
  package private(set) var unsettled: Set<Key> = []
  /// What the others take, in bytes.
  package private(set) var settledByteCount: UInt64 = 0
  private var settled: [Key: UInt64] = [:]
  private var newest: [SegmentKind: UInt64] = [:]
  /// Counts the changes: what was asked before one may be wrong behind it.
  package private(set) var version: UInt64 = 0

  /// Of no segments.
  package init() {}

  /// A segment that was not there.
  package mutating func add(_ key: Key) {
    version += 1
    unsettled.insert(key)
    newest[key.kind] = max(newest[key.kind] ?? 0, key.number)
  }

  /// The segment is gone.
  package mutating func remove(_ key: Key) {
    version += 1
    unsettled.remove(key)
    settledByteCount -= settled.removeValue(forKey: key) ?? 0
  }

  /// What the segment takes has changed.
  package mutating func unsettle(_ key: Key) {
    version += 1
    guard let size = settled.removeValue(forKey: key) else { return }
    settledByteCount -= size
    unsettled.insert(key)
  }

  /// Takes in sizes that were asked of those that were unsettled at that `version`, unless anything has changed since.
  package mutating func settle(_ sizes: [Key: UInt64], asOf version: UInt64) {
    guard version == self.version else { return }
    for (key, size) in sizes where key.number != newest[key.kind] {
      unsettled.remove(key)
      settled[key] = size
      settledByteCount += size
    }
  }
}
