/// How a journal is opened.
package struct JournalOptions: Sendable {
  /// Where the spool ring's file lives; shared memory, so that writing it costs no disk.
  package var spoolDirectory = "/dev/shm"
  /// Size of the ring in bytes (rounded up to 4 KiB, at least 16 MiB).
  package var spoolByteCount: UInt64 = 256 << 20
  /// Whether to go on when the ring of an unclean journal is gone, though acknowledged data is lost with it.
  package var acceptLoss = false
  /// What a read of something that has not arrived does while the stream goes on.
  package var unarrived = Unarrived.wait
  /// What never arrived reads as after completion; nil: error for snapshot disks, zeroes for device disks.
  package var afterComplete: AfterComplete?
  /// How long a read may be parked, in nanoseconds; 0: for ever.
  package var readTimeoutNanoseconds: UInt64 = 0
  /// What happens to writes when the disk of the journal is full.
  package var whenFull = WhenFull.stall
  /// Under `taint`: how long a write may wait for room, in nanoseconds, before it is dropped.
  package var stallBudgetNanoseconds: UInt64 = 1_000_000_000
  /// What the journal may take on disk; nil: what there is.
  package var quota: Quota?
  /// How many sealed generations of each disk are kept, at least 1; nil: all.
  package var keptGenerations: Int?
  /// How much of what is superseded is kept, so that the past can be read.
  package var history = HistoryLimit.none
  /// Where the daemon's admin socket is, recorded in the journal directory for the tools.
  package var adminAddress: String?

  /// What a journal is opened with when nothing was asked for.
  package init() {}
}

/// What a read of a sector that has not arrived does before the stream completes.
package enum Unarrived: String, Sendable, CaseIterable { case wait, zeroes, error }

/// What a sector that never arrived reads as after the stream completed.
package enum AfterComplete: String, Sendable, CaseIterable { case zeroes, error }

/// What happens to a write for which a full disk has no space.
package enum WhenFull: String, Sendable, CaseIterable {
  /// It waits until there is space again.
  case stall
  /// It fails; later ones succeed when there is space again.
  case enospc
  /// It is acknowledged and dropped, and its generation is broken from then on: the guest never suffers.
  case taint
}

/// How a disk takes writes.
package enum DiskMode: String, Sendable, CaseIterable {
  /// An ordinary block device: the last write wins.
  case device
  /// Write-once point-in-time data of one backup job.
  case snapshot
}

/// Something that the journal wants people to know. Called from its threads; must not block for long.
package typealias JournalLog = @Sendable (JournalLogLevel, String) -> Void

/// How much a log line matters.
package enum JournalLogLevel: String, Sendable { case debug, info, warning, error }
