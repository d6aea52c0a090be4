internal import ExtentJournal
internal import Logging

/// What a crash left of backups: pre-sealed generations, which become sealed or end (docs/inspection.md).
struct SessionResolution {
  private let journal: Journal
  private let log: Logger

  init(_ journal: Journal, _ log: Logger) {
    self.journal = journal
    self.log = log
  }

  /// Settles every backup but the one whose tag is `current`, which its session settles itself.
  ///
  /// If every disk of a backup was pre-sealed its content was whole, whatever became of the jobs; else it is none.
  func run(except current: String?) throws(ServiceError) {
    let pending = Dictionary(grouping: journal.preSealedGenerations) { $0.tag }
    for (tag, generations) in pending where tag != current {
      let isWhole =
        generations.count == Self.diskCount(tag).map { $0 - sealedCount(tag) } ?? generations.count
      for found in generations {
        try reportingJournalErrors { () throws(JournalError) in
          let disk = try journal.generation(of: found.disk, named: found.generation)
          if isWhole { try disk.seal() } else { try disk.end("the backup was cut off before it was whole") }
        }
        log.info("generation \(found.generation) of disk \(found.disk) is \(isWhole ? "sealed" : "ended")")
      }
    }
  }

  private func sealedCount(_ tag: String) -> Int {
    journal.generations.count { $0.isSealed && $0.tag == tag }
  }

  /// How many disks the backup with this tag has; nil when the tag does not say.
  static func diskCount(_ tag: String) -> Int? {
    tag.split(separator: "/").last.flatMap { tag.contains("/") ? Int($0) : nil }
  }
}
