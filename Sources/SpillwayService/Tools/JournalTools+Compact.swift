internal import Bytes
internal import ExtentJournal
internal import QEMUMonitor

extension JournalTools {
  /// `spillway compact`: gives back everything that nobody needs, and if `recompressing` compresses harder what was compressed
  /// in a hurry; through the daemon, or by opening the journal. Shows on a terminal how far it is. Returns what to print.
  package func compact(recompressing: Bool) throws(ServiceError) -> String {
    let report: UpkeepReport
    if let daemon = try connect() {
      // The daemon answers when all is done: other connections ask meanwhile.
      report = try LiveLine.show { () throws(ServiceError) in
        let status = try statusValue().decoded(as: JournalStatus.self)
        return CompactionText.line(segmentBytes: status.segmentBytes, liveBytes: status.liveBytes ?? 0)
      } while: { () throws(ServiceError) in
        try daemon.execute("compact", ["recompress": .bool(recompressing)]).decoded(as: UpkeepReport.self)
      }
    } else {
      report = try whileOpen { (journal) throws(ServiceError) in
        try LiveLine.show { () throws(ServiceError) in
          let space = try reportingJournalErrors { () throws(JournalError) in try journal.spaceStatus() }
          return CompactionText.line(segmentBytes: space.segmentBytes, liveBytes: space.liveBytes)
        } while: { () throws(ServiceError) in
          try reportingJournalErrors { () throws(JournalError) in
            try journal.upkeep(recompresses: recompressing)
          }
        }
      }
    }
    let status = try openReader()
    let now = try reportingJournalErrors { () throws(JournalError) in try status.status() }
    return CompactionText.end(report, segmentBytes: now.segmentBytes, indexBytes: now.indexBytes)
  }
}

/// What `spillway compact` says.
enum CompactionText {
  /// How far it is: `compact: the segments take 1.5 GiB, 1.2 GiB of it needed`.
  static func line(segmentBytes: UInt64, liveBytes: UInt64) -> String {
    "compact: the segments take \(ByteCount.text(segmentBytes)), \(ByteCount.text(liveBytes)) of it needed"
  }

  /// What was done, and what the journal takes now, with a line break.
  static func end(_ report: UpkeepReport, segmentBytes: UInt64, indexBytes: UInt64) -> String {
    let freed = "\(report.unlinkedSegments) segments removed, \(ByteCount.text(report.punchedBytes)) punched"
    let moved = "\(report.compactedSegments) compacted, \(ByteCount.text(report.writtenBytes)) written for it"
    let later =
      report.postponements > 0 ? "; some space is kept for another process that reads the journal" : ""
    let now = "segments take \(ByteCount.text(segmentBytes)), the index \(ByteCount.text(indexBytes))"
    return "\(freed), \(moved)\(later); \(now)\n"
  }
}
