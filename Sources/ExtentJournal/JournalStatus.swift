/// What a journal is doing, for people and for `spillway status --json`. A snapshot: fields are taken one
/// after the other while the journal works.
package struct JournalStatus: Codable, Sendable {
  /// Identity of the journal.
  package var uuid: String
  /// Whether a daemon has it open; if not, `wasClosed` says whether it was closed cleanly.
  package var isServed: Bool
  package var wasClosed: Bool
  /// Last sequence given out, last sequence written to segments, last sequence that survives power loss.
  package var lastSequence: UInt64
  package var spilledThrough: UInt64
  package var durableThrough: UInt64
  /// Bytes of the spool ring that hold acknowledged data not yet spilled, and the ring's size.
  package var spoolUsedBytes: UInt64
  package var spoolBytes: UInt64
  /// Segment files and what they and the index take on disk.
  package var segmentCount: UInt64
  package var segmentBytes: UInt64
  package var indexBytes: UInt64
  /// Since the journal was opened: payload bytes written by clients, of those bytes that reached frames, and
  /// the bytes of the frames.
  package var writtenBytes: UInt64
  package var framedBytes: UInt64
  package var storedBytes: UInt64
  /// Since the journal was opened: bytes that clients zeroed or trimmed.
  package var zeroedBytes: UInt64
  /// Reads: parked now, ever parked, longest time any was parked (nanoseconds).
  package var parkedReads: UInt64
  package var waitedReads: UInt64
  package var longestWaitNanoseconds: UInt64
  /// Whether spilling is stopped by a full disk, and the error that poisoned the journal, if one did.
  package var isStalled: Bool
  package var failure: String?
  package var disks: [DiskStatus]
}

/// One disk in a `JournalStatus`.
package struct DiskStatus: Codable, Sendable {
  package var name: String
  package var byteCount: UInt64
  /// `device` or `snapshot`.
  package var mode: String
  package var generations: [GenerationStatus]
}

/// One generation of a disk in a `JournalStatus`.
package struct GenerationStatus: Codable, Sendable {
  /// The name, or nil while the generation is open (its seal names it).
  package var name: String?
  package var isComplete: Bool
  package var tainted: Bool
}
