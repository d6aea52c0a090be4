/// What the segments of a journal take, and what of it anybody needs.
package struct SpaceStatus: Codable, Sendable, Equatable {
  /// What the segment files take on disk, in bytes; holes do not count.
  package var segmentBytes: UInt64 = 0
  /// What of the segments is stored for sectors that some generation shows, in bytes: of a frame that is needed in part, its
  /// part. As of the last commit of the index; of segments that upkeep has not looked at, whole frames.
  package var liveBytes: UInt64 = 0
  /// The rest of what they take: what is overwritten, trimmed or moved and not given back yet, headers and directories.
  package var deadBytes: UInt64 = 0
  /// What is kept free for records without payload and for upkeep, in bytes.
  package var reserveBytes: UInt64 = 0
  /// What upkeep has done since the journal was opened.
  package var upkeep = UpkeepReport()

  /// Of nothing.
  package init() {}
}

/// What upkeep has done.
package struct UpkeepReport: Codable, Sendable, Equatable {
  /// Segments that were removed.
  package var unlinkedSegments: UInt64 = 0
  /// What they took on disk, in bytes.
  package var unlinkedBytes: UInt64 = 0
  /// Runs that were given back to the filesystem, and their bytes.
  package var punchedRuns: UInt64 = 0
  /// See `punchedRuns`.
  package var punchedBytes: UInt64 = 0
  /// Segments whose live rest was moved.
  package var compactedSegments: UInt64 = 0
  /// Frames that were copied as they were.
  package var movedFrames: UInt64 = 0
  /// Frames of which only the live part was compressed again.
  package var reencodedFrames: UInt64 = 0
  /// Frames that were joined and compressed harder.
  package var recompressedFrames: UInt64 = 0
  /// Records without payload that were moved.
  package var movedRecords: UInt64 = 0
  /// Bytes that were written to segments of moved data.
  package var writtenBytes: UInt64 = 0
  /// How often the index was copied to leave its free pages behind.
  package var indexCompactions: UInt64 = 0
  /// How often something could not be freed since somebody reads the journal from another process.
  package var postponements: UInt64 = 0

  /// Of nothing.
  package init() {}
}

extension UpkeepReport {
  /// What was done since `before`.
  func since(_ before: UpkeepReport) -> UpkeepReport {
    var report = self
    report.unlinkedSegments -= before.unlinkedSegments
    report.unlinkedBytes -= before.unlinkedBytes
    report.punchedRuns -= before.punchedRuns
    report.punchedBytes -= before.punchedBytes
    report.compactedSegments -= before.compactedSegments
    report.movedFrames -= before.movedFrames
    report.reencodedFrames -= before.reencodedFrames
    report.recompressedFrames -= before.recompressedFrames
    report.movedRecords -= before.movedRecords
    report.writtenBytes -= before.writtenBytes
    report.postponements -= before.postponements
    report.indexCompactions -= before.indexCompactions
    return report
  }
}
