internal import Bytes
internal import ExtentJournal
internal import Logging
internal import QEMUMonitor

/// `spillway backup`: a moment of a running guest's disks, kept as a sealed generation (docs/inspection.md, "Backups").
package struct Backup {
  private let configuration: SessionConfiguration

  /// Nothing is done yet.
  package init(_ configuration: SessionConfiguration) { self.configuration = configuration }

  /// Runs to the seal. Throws when there is none; then the base and its bitmap are as they were. Call it from the process's
  /// only thread.
  package func run() throws(ServiceError) {
    let session = try Session(configuration)
    for line in SessionViews(session.plan).lines { session.log.info("readable meanwhile: \(line)") }
    var problem: ServiceError?
    do throws(ServiceError) {
      try session.run { () throws(ServiceError) in
        try compareBases(session)
        try copy(session)
        Failpoint.pass(.backupCopied)
        try checkForStop(session, milliseconds: 0)
        session.mayBeSealed = true
        try session.engine.ask(SessionCommands.Name.preSeal)
        Failpoint.pass(.backupPreSealed)
        // Views have everything in the journal now.
        try session.engine.ask(SessionCommands.Name.detach, ["reason": "the backup is whole"])
        try finalize(session)
        Failpoint.pass(.backupFinalized)
        try session.engine.ask(SessionCommands.Name.seal)
        Failpoint.pass(.backupSealed)
      }
    } catch {
      problem = error
    }
    session.end(reason: problem.map { "the backup failed: \($0.message)" } ?? "the backup is over")
    if let problem { throw problem }
    for disk in session.plan.disks {
      StandardError.printLine("sealed: \(disk.name)@\(disk.generation) (\(disk.kind))")
    }
  }

  /// Throws when a disk is not what its base and the base's bitmap say (BaseComparison.swift).
  private func compareBases(_ session: Session) throws(ServiceError) {
    guard session.plan.disks.contains(where: { $0.base != nil }) else { return }
    let answer = try session.engine.ask(SessionCommands.Name.compare)
    for disk in session.plan.disks {
      guard let base = disk.base, let count = answer[disk.name]?.integer, count > 0 else { continue }
      // A write may be seen on the disk a little before the bitmap knows of it.
      var looksLeft = 30
      while try written(disk, session) < count * Int64(BaseComparison.clusterByteCount) {
        looksLeft -= 1
        guard looksLeft > 0 else {
          throw .failed(
            "\(disk.node) is not what \(disk.name)@\(base) was made of, or its bitmap \(SessionDisk.bitmap(of: base)) is another "
              + "journal's: \(count) clusters differ that should not have changed; make a full backup")
        }
        try pause(session)
      }
    }
  }

  /// Bytes of the clusters of `disk` that were written since the moment.
  private func written(_ disk: SessionDisk, _ session: Session) throws(ServiceError) -> Int64 {
    do throws(QMPError) {
      let node = try session.monitor.ask { monitor throws(QMPError) in
        try monitor.blockNode(disk.node, session.monitor.schema)
      }
      return node.bitmaps.first { $0.name == disk.bitmap }?.count ?? 0
    } catch {
      throw .failed("qemu cannot be asked any more: \(error)")
    }
  }

  /// Returns when every job is pending (or was finalized by somebody else): all that it had to copy is acknowledged.
  private func copy(_ session: Session) throws(ServiceError) {
    var progress = ProgressLine(session.plan.disks.map(\.name).joined(separator: ", "))
    defer { progress.clear() }
    while true {
      let jobs = try self.jobs(session)
      if jobs.allSatisfy({ $0.status == "pending" || $0.isOver }) { return }
      // What was dropped to spare the guest is missing: the rest is not worth its while.
      try session.engine.ask(SessionCommands.Name.check)
      progress.update(
        done: jobs.reduce(0) { $0 + UInt64(max(0, $1.currentProgress)) },
        total: jobs.reduce(0) { $0 + UInt64(max(0, $1.totalProgress)) })
      try pause(session)
    }
  }

  /// Ends the jobs, which have nothing more to do.
  private func finalize(_ session: Session) throws(ServiceError) {
    for job in try jobs(session) where !job.isOver {
      try tell(session) { monitor throws(QMPError) in try monitor.finalizeJob(job.id) }
    }
    while true {
      let jobs = try self.jobs(session)
      if jobs.allSatisfy({ $0.isOver }) { return }
      try pause(session)
    }
  }

  /// The session's jobs. Throws when one has failed or is gone.
  private func jobs(_ session: Session) throws(ServiceError) -> [QEMUJob] {
    let all: [QEMUJob]
    do throws(QMPError) {
      all = try session.monitor.ask { monitor throws(QMPError) in try monitor.jobs() }
    } catch {
      throw .failed("qemu cannot be asked any more: \(error)")
    }
    var found: [QEMUJob] = []
    for disk in session.plan.disks {
      guard let job = all.first(where: { $0.id == disk.job }) else {
        throw .failed("the job of \(disk.name) is gone: somebody else has cancelled or dismissed it")
      }
      if let error = job.error { throw .failed("the job of \(disk.name) failed: \(error)") }
      if job.status == "aborting" { throw .failed("the job of \(disk.name) was cancelled") }
      found.append(job)
    }
    return found
  }

  /// Waits for a moment. Throws when the backup is to stop.
  private func pause(_ session: Session) throws(ServiceError) { try checkForStop(session, milliseconds: 100) }

  private func checkForStop(_ session: Session, milliseconds: Int) throws(ServiceError) {
    if let signal = TerminationSignals.wait(milliseconds: milliseconds), TerminationSignals.isEnding(signal) {
      throw .failed("stopped by \(TerminationSignals.name(signal)); nothing was sealed")
    }
    if let loss = session.engine.loss { throw .failed(loss) }
  }

  private func tell(
    _ session: Session, _ body: (any Monitor) throws(QMPError) -> Void
  ) throws(ServiceError) {
    do throws(QMPError) { try session.monitor.use(body) } catch { throw .failed("\(error)") }
  }
}
