internal import ExtentJournal
internal import Logging

/// What a crash left of sessions: generations that nobody fills any more, which become sealed or end (docs/inspection.md).
///
/// Whoever has the journal open knows that no engine but its own lives.
struct SessionResolution {
  private let journal: Journal
  private let log: Logger

  init(_ journal: Journal, _ log: Logger) {
    self.journal = journal
    self.log = log
  }

  /// Settles every session but the one whose tag is `current`, which does so itself.
  ///
  /// If every disk of a backup was pre-sealed its content was whole, whatever became of the jobs; else it is none. What
  /// somebody begins and seals by hand is left alone unless it was cut off between the two steps of a seal.
  func run(except current: String?) throws(ServiceError) {
    let open = journal.generations.filter { !$0.isClosed && $0.tag != current }
    let pending = open.filter { $0.isPreSealed || Self.diskCount($0.tag) != nil }
    for (tag, generations) in Dictionary(grouping: pending, by: \.tag) {
      let awaited = Self.diskCount(tag).map { $0 - sealedCount(tag) } ?? generations.count
      let isWhole =
        generations.count == awaited && generations.allSatisfy { $0.isPreSealed && $0.taintReason == nil }
      for generation in generations {
        try reportingJournalErrors { () throws(JournalError) in
          if isWhole { try generation.seal() } else { try generation.end("its session was cut off") }
        }
        let name = "\(generation.name)@\(generation.generationName ?? "")"
        log.info("\(name), whose session was cut off, is \(isWhole ? "sealed" : "ended")")
      }
    }
  }

  private func sealedCount(_ tag: String) -> Int {
    journal.generations.count { $0.isSealed && $0.tag == tag }
  }

  /// How many disks the session with this tag has; nil when it is no session's.
  static func diskCount(_ tag: String) -> Int? {
    tag.split(separator: "/").last.flatMap { tag.contains("/") ? Int($0) : nil }
  }
}
