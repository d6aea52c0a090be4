internal import ExtentJournal
internal import Logging

/// Puts the journal of a session in order whose engine did not: its generations are settled, and it is closed.
///
/// For whoever is left when the jobs have ended and the engine is dead.
struct JournalSettlement {
  private let plan: SessionPlan
  private let log: Logger

  init(_ plan: SessionPlan, _ log: Logger) {
    self.plan = plan
    self.log = log
  }

  /// Returns the disks whose generation is there: what was pre-sealed is settled, the rest ends for `reason`, and what the
  /// ring missed is told by the taint. Nil when the journal cannot be asked: the next to open it does as much.
  @discardableResult
  func run(_ reason: String) -> Set<String>? {
    do throws(ServiceError) {
      guard try JournalLocation(parsing: plan.journal, currentDirectory: "/").exists else { return [] }
      return try reportingJournalErrors { () throws(JournalError) in
        var options = JournalOptions()
        options.spoolByteCount = ServeConfiguration.spoolByteCountMin
        options.acceptLoss = true
        let journal = try Journal.open(plan.journal, options: options, log: log.forJournal)
        do throws(ServiceError) { try SessionResolution(journal, log).run(except: nil) } catch {
          log.warning("\(error.message)")
        }
        var kept: Set<String> = []
        for disk in plan.disks {
          guard
            let found = journal.generations.first(where: {
              $0.name == disk.name && $0.generationName == disk.generation && $0.tag == plan.tag
            })
          else { continue }
          if found.isSealed { kept.insert(disk.name) } else if !found.isClosed { try found.end(reason) }
        }
        try journal.close()
        return kept
      }
    } catch {
      log.warning("the journal \(plan.journal) could not be put in order: \(error.message)")
      return nil
    }
  }
}
