/// From where on upkeep finds something worth its while, in bytes.
package struct UpkeepLimits: Sendable {
  /// The shortest dead run that is punched while there is not much of it: below, the calls and the extents of the file cost
  /// more than the space is worth.
  package var punchedBytesMin: UInt64 = 64 << 10
  /// The smallest segment without live frames whose records are moved so that it can go.
  package var retiredBytesMin: UInt64 = 64 << 10
  /// The smallest segment that is compacted.
  package var compactedBytesMin: UInt64 = 128 << 10
  /// What a segment takes beside its frames: compaction must gain more. (Less than superblock, directory, footer and the
  /// padding of a group together, and compaction would never end.)
  package var overheadBytes: UInt64 = 32 << 10
  /// What the journal may take beside a quarter more than what is live before more than half dead segments are compacted.
  package var slackBytes: UInt64 = 16 << 20
  /// The smallest index that is copied when more than half of it is free.
  package var indexBytesMin: UInt64 = 4 << 20
  /// How old a segment is, in nanoseconds, before its frames are joined and compressed harder.
  package var coldNanoseconds: UInt64 = 600_000_000_000
  /// The smallest open segment that is ended, when it is idle and more than half of it is dead.
  package var sealedBytesMin: UInt64 = 1 << 20

  /// Of a real journal.
  package init() {}
}
