internal import Bytes
internal import ExtentJournal
internal import Logging
internal import NBDServer
internal import Threads

/// What a session does first when the last one on the same monitor left its record: both of its processes were killed, or
/// the machine went down.
///
/// The guest may still run with jobs whose target is gone: its writes wait in qemu's `reconnect-delay`, or fail. So somebody
/// takes the ingest first; only then the jobs are cancelled.
struct SessionCleanup {
  private let plan: SessionPlan
  private let record: SessionRecord
  private let log: Logger

  init(_ plan: SessionPlan, _ record: SessionRecord, _ log: Logger) {
    self.plan = plan
    self.record = record
    self.log = log
  }

  /// Cleans up on `monitor`; nil when qemu is gone, and only files are left.
  func run(_ monitor: SharedMonitor?) throws(ServiceError) {
    log.warning("an earlier session on this virtual machine was cut off; what it left is removed first")
    if let monitor {
      StreamSocket.remove(plan.ingestSocket)
      let socket: HeldSocket
      do throws(ServerError) { socket = try HeldSocket(binding: .unix(path: plan.ingestSocket)) } catch {
        throw .failed("\(error)")
      }
      try record.admit(user: plan.monitor.user, plan: plan)
      let drop = try DropServer(plan, on: socket, log: log)
      defer { drop.stop() }
      let kept = keptDisks()
      for problem in SessionTeardown(plan, monitor).run(keepingBitmapsOf: kept) { log.warning("\(problem)") }
    } else {
      _ = keptDisks()
    }
    record.remove(plan)
  }

  /// The disks whose generation is there: the journal settles what was pre-sealed, ends the rest, and its ring is told that
  /// it may have missed something.
  private func keptDisks() -> Set<String> {
    do throws(ServiceError) {
      guard try JournalLocation(parsing: plan.journal, currentDirectory: "/").exists else { return [] }
      return try reportingJournalErrors { () throws(JournalError) in
        var options = JournalOptions()
        options.spoolByteCount = ServeConfiguration.spoolByteCountMin
        options.acceptLoss = true
        let journal = try Journal.open(plan.journal, options: options, log: log.forJournal)
        var kept: Set<String> = []
        do throws(ServiceError) { try SessionResolution(journal, log).run(except: nil) } catch {
          log.warning("\(error.message)")
        }
        for disk in plan.disks {
          guard let found = journal.generations.first(where: {
            $0.name == disk.name && $0.generationName == disk.generation
          }) else { continue }
          if found.isSealed { kept.insert(disk.name) } else { try found.end("the session was cut off") }
        }
        try journal.close()
        return kept
      }
    } catch {
      log.warning("the journal of the earlier session, \(plan.journal): \(error.message)")
      return []
    }
  }
}
