package import BlockFile

/// What a journal stands on besides its directory: the real machine, or one that a test can cut the power of.
package struct JournalHost: Sendable {
  /// Where the segments are; nil: files in the journal directory.
  package var segments: (any FileStore)?
  /// Which boot of the machine this is; nil: what the kernel says. Shared memory does not outlive it.
  package var bootID: String?

  /// Most bytes of a segment, unless one batch needs more; 64 MiB, which is what an index entry can address.
  package var segmentBytesMax: UInt64 = 64 << 20
  /// How long to wait before a full disk is tried again, in nanoseconds.
  package var fullDiskRetryNanoseconds: UInt64 = 1_000_000_000
  /// How long after a FLUSH, with nothing to do, the journal records that it is durable, in nanoseconds.
  package var idleMarkNanoseconds: UInt64 = 1_000_000_000

  /// Smallest spool ring in bytes; an eighth of it is the largest write that is one record.
  package var spoolBytesMin = Journal.spoolBytesMin
  /// What a test does to the journal.
  package var hooks = TestHooks()

  /// How often the rebuild of an index says how far it is, in nanoseconds.
  package var indexProgressNanoseconds: UInt64 = 3_000_000_000
  /// Most pages that a transaction of the index may dirty.
  package var indexPagesMax = PageBudget.pagesMax
  /// Called before the n-th transaction of the index is committed, from 1: an error number other than 0 is what it fails
  /// with.
  package var indexFault: (@Sendable (_ transaction: Int) -> Int32)?

  /// How many random rows of the index are asked after each commit whether they tell the truth.
  package var auditRowsPerCommit = 4

  /// How long a sender may stall in the middle of a payload while others need its memory, in nanoseconds.
  package var stalledSenderNanoseconds: UInt64 = 5_000_000_000
  /// Memory for payloads that cannot lie in the ring, in bytes; the largest request must fit.
  package var privateBytesMax = 64 << 20

  /// How often upkeep looks for something to do by itself, in nanoseconds; nil: only when it is asked to.
  package var upkeepEveryNanoseconds: UInt64? = 2_000_000_000
  /// How much a journal takes, in bytes, before it keeps blocks for upkeep in a file.
  package var reserveFileBytesMin: UInt64 = 1 << 30
  /// From where on upkeep finds something worth its while.
  package var upkeepLimits = UpkeepLimits()

  /// The real machine.
  package init() {}
}
