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

  /// Cleans up and returns the monitor. When that cannot be reached only the files go, if qemu is gone, and the error is
  /// thrown.
  func run() throws(ServiceError) -> SharedMonitor {
    log.warning("an earlier session on this virtual machine was cut off; what it left is removed first")
    // Before anything is acknowledged and lost. A backup that was not whole ends below, and one that was gets no more.
    if plan.purpose == .inspect { markTainted() }
    StreamSocket.remove(plan.ingestSocket)
    let socket: HeldSocket
    do throws(ServerError) { socket = try HeldSocket(binding: .unix(path: plan.ingestSocket)) } catch {
      throw .failed("\(error)")
    }
    try record.admit(user: plan.monitor.user, plan: plan)
    // Before the monitor is spoken to: it may not answer as long as a write of the guest waits.
    let drop = try DropServer(plan, on: socket, log: log)
    defer { drop.stop() }
    let monitor: SharedMonitor
    do throws(ServiceError) { monitor = try plan.monitor.connect() } catch {
      if plan.monitor.isGone {
        _ = keptDisks()
        record.remove(plan)
      }
      throw error
    }
    let kept = keptDisks()
    let teardown = SessionTeardown(plan, monitor)
    for problem in teardown.run() + teardown.removeBitmaps(keeping: kept) { log.warning("\(problem)") }
    record.remove(plan)
    return monitor
  }

  private func markTainted() {
    do throws(JournalError) {
      _ = try Journal.markTainted(SessionCommands.parseLayers(plan.layers), in: plan.journal)
    } catch {
      log.warning("\(error.message)")
    }
  }

  /// The disks whose generation is there: the journal settles what was pre-sealed, ends the rest, and its ring is told that
  /// it may have missed something. Nil when the journal cannot be asked.
  private func keptDisks() -> Set<String>? {
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
      return nil
    }
  }
}
