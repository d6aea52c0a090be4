package import BlockFile
package import Bytes

// How much may be acknowledged so that all of it can be stored. Pure.
//
//   free ≥ reserve + outstanding
//
// `free` is what the filesystem of the segments said last, less what was written since; `outstanding` is the worst that
// everything admitted and not yet written can take. The reserve is for what is not counted one by one: records without
// payload, superblocks, the filesystem's own blocks, and the index.

/// The space that is free, promised and kept. See the note above.
package struct SpaceAccount: Sendable {
  /// What was free when it was last asked.
  package private(set) var freeByteCount = UInt64.max
  /// What is kept free.
  package private(set) var reserveByteCount: UInt64 = 0
  private var admittedSinceAsked = UInt64.max
  /// The most that what is admitted and not yet written can take.
  package private(set) var outstandingByteCount: UInt64 = 0

  /// Two segments' worth; on a filesystem below 2 GiB a sixteenth of it.
  package static let reserveBytesMax: UInt64 = 128 << 20
  /// After so many admitted bytes the filesystem is asked again: others write there, too.
  package static let askEveryByteCount: UInt64 = 16 << 20

  /// An account that knows nothing yet: ask before the first use.
  package init() {}

  /// Whether it is time to ask the filesystem.
  package var shouldAsk: Bool { admittedSinceAsked >= Self.askEveryByteCount }

  /// Takes in what the filesystem, or the quota, says; `reserve` is kept free, or else what is usual there, less the `held`
  /// bytes of it that are kept as blocks already.
  package mutating func learn(_ space: FileSpace, reserve: UInt64? = nil, held: UInt64 = 0) {
    freeByteCount = space.freeByteCount
    let wanted = reserve ?? min(Self.reserveBytesMax, space.totalByteCount / 16)
    reserveByteCount = wanted - min(wanted, held)
    admittedSinceAsked = 0
  }

  /// What more can be promised.
  package var availableByteCount: UInt64 {
    let (taken, isOver) = outstandingByteCount.addingReportingOverflow(reserveByteCount)
    return isOver ? 0 : freeByteCount - min(freeByteCount, taken)
  }

  /// Whether `byteCount` more can be promised.
  package func fits(_ byteCount: Int) -> Bool {
    let (sum, isOver) = outstandingByteCount.addingReportingOverflow(reserveByteCount + UInt64(byteCount))
    return !isOver && sum <= freeByteCount
  }

  /// Promises `byteCount` more, whether or not they fit.
  package mutating func admit(_ byteCount: Int) {
    outstandingByteCount += UInt64(byteCount)
    admittedSinceAsked = admittedSinceAsked.addingReportingOverflow(UInt64(byteCount)).partialValue
  }

  /// Takes a promise of `byteCount` back: it is kept, or nobody needs it.
  package mutating func release(_ byteCount: Int) {
    precondition(UInt64(byteCount) <= outstandingByteCount, "more released than was admitted")
    outstandingByteCount -= UInt64(byteCount)
  }

  /// The most bytes of segments that a write of `range` can take, however it is cut and whatever batch it comes to:
  /// a frame for each piece, what later records of the batch cut off, the commit record, the directory's entries for
  /// all of them, and all of it rounded up.
  package static func storedBytesMax(_ range: SectorRange) -> Int {
    let pieces = Int(range.count / BatchPlan.sequentialFrameSectors) + 2
    let header = FrameHeader.byteCount(extents: 1)
    let frames = (pieces + 2) * (header + 16 + SegmentDirectory.entryByteCount(header))
    let commit = CommitRecord.byteCount + SegmentDirectory.entryByteCount(CommitRecord.byteCount)
    return (Int(range.byteCount) + frames + commit).roundedUp(to: AlignedBuffer.alignment)
  }
}
