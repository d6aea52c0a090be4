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
    plan.frozen?.thaw(log)
    let monitor: SharedMonitor
    do throws(ServiceError) { monitor = try plan.monitor.connect() } catch {
      if plan.monitor.isGone {
        settle()
        record.remove(plan)
      }
      throw error
    }
    let kept = settle()
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

  @discardableResult
  private func settle() -> Set<String>? { JournalSettlement(plan, log).run("the session was cut off") }
}
