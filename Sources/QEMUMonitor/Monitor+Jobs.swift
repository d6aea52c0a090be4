/// A background job, as `query-jobs` tells of it.
package struct QEMUJob: Decodable, Sendable, Equatable {
  /// The name that whoever started it gave it.
  package var id: String
  /// One of qemu's words: `created`, `running`, `paused`, `ready`, `pending`, `aborting`, `concluded` and others.
  package var status: String
  /// Work done, in the job's own unit (bytes for backups).
  package var currentProgress: Int64
  /// Work known, in the job's own unit; it may grow while the job runs.
  package var totalProgress: Int64
  /// Why it failed; nil as long as it did not.
  package var error: String?

  /// Whether it still protects what it was started for: it has neither ended nor begun to.
  package var isAlive: Bool { !["aborting", "concluded", "null", "undefined"].contains(status) }
  /// Whether there is nothing more to wait for.
  package var isOver: Bool { status == "concluded" || status == "null" }

  private enum CodingKeys: String, CodingKey {
    case id, status, error
    case currentProgress = "current-progress"
    case totalProgress = "total-progress"
  }
}

extension Monitor {
  /// All jobs, in one round trip: what is true of one is true of all at the same instant.
  package func jobs() throws(QMPError) -> [QEMUJob] {
    try execute("query-jobs", as: [QEMUJob].self)
  }

  /// The job `id`, or nil when qemu knows none of that name.
  package func job(_ id: String) throws(QMPError) -> QEMUJob? {
    try jobs().first { $0.id == id }
  }

  /// Returns when the job `id` has concluded without an error. Needs `auto-dismiss: false`, or a quick job is
  /// gone before it is asked about.
  ///
  /// `observe` sees the job at once and then again with every change of its status, and at least every
  /// `interval` (qemu sends no event for mere progress); when it returns false the wait is over early.
  package func waitForJob(
    _ id: String, every interval: Duration = .milliseconds(50), within limit: Duration,
    observe: (QEMUJob) -> Bool = { _ in true }
  ) throws(QMPError) {
    try waitForJobs([id], toBe: ["concluded"], every: interval, within: limit) { jobs in
      jobs.allSatisfy(observe)
    }
  }

  /// Returns when each of `ids` is in one of `statuses`, or over; throws as soon as one has failed.
  ///
  /// `observe` is as for `waitForJob`, with all of them in the order of `ids`.
  package func waitForJobs(
    _ ids: [String], toBe statuses: Set<String>, every interval: Duration = .milliseconds(50),
    within limit: Duration, observe: ([QEMUJob]) -> Bool = { _ in true }
  ) throws(QMPError) {
    let awaited = ids.map { "\(statuses.sorted().joined(separator: " or ")) of job \($0)" }
    try wait(
      for: awaited.joined(separator: ", "), atEach: isChange(of: ids), every: interval, within: limit
    ) { () throws(QMPError) in
      let all = try jobs()
      var found: [QEMUJob] = []
      for id in ids {
        guard let job = all.first(where: { $0.id == id }) else {
          throw .jobFailed(id: id, description: "it does not exist")
        }
        if job.isOver, let error = job.error { throw .jobFailed(id: id, description: error) }
        found.append(job)
      }
      let goesOn = observe(found)
      return !goesOn || found.allSatisfy { statuses.contains($0.status) || $0.isOver }
    }
  }

  /// Ends the job `id` before its time. It concludes, with an error that says so, and is still to be dismissed if it was
  /// started so; a job that has already concluded refuses.
  package func cancelJob(_ id: String) throws(QMPError) {
    do throws(QMPError) {
      try execute("job-cancel", arguments: ["id": .string(id)])
    } catch .refused(_, "CommandNotFound", _) {
      try execute("block-job-cancel", arguments: ["device": .string(id), "force": true])
    }
  }

  /// Lets the job `id`, which is pending, end well: its bitmap changes, its target is whole.
  package func finalizeJob(_ id: String) throws(QMPError) {
    try execute("job-finalize", arguments: ["id": .string(id)])
  }

  /// Lets qemu forget the job `id`, which has concluded.
  package func dismissJob(_ id: String) throws(QMPError) {
    try execute("job-dismiss", arguments: ["id": .string(id)])
  }

  /// Cancels the job `id` if it lives, waits for its end and dismisses it. No error when qemu knows no such job; the
  /// error that it ended with is returned.
  @discardableResult
  package func endJob(_ id: String, within limit: Duration = .seconds(60)) throws(QMPError) -> String? {
    guard let job = try job(id) else { return nil }
    if job.isAlive {
      do throws(QMPError) { try cancelJob(id) } catch {
        // It may have ended by itself between question and command.
        guard try self.job(id)?.isAlive != true else { throw error }
      }
    }
    var last: QEMUJob?
    try wait(for: "end of job \(id)", atEach: isChange(of: [id]), within: limit) { () throws(QMPError) in
      guard let job = try self.job(id) else { return true }
      last = job
      return job.isOver
    }
    if last?.status == "concluded" { try dismissJob(id) }
    return last?.error
  }
}

/// Whether an event tells a change of one of the jobs `ids`.
private func isChange(of ids: [String]) -> (QMPEvent) -> Bool {
  { event in event.name == "JOB_STATUS_CHANGE" && ids.contains(event.data["id"]?.string ?? "") }
}
