/// A background job, as `query-jobs` tells of it.
package struct QEMUJob: Decodable, Sendable, Equatable {
  /// The name that whoever started it gave it.
  package var id: String
  /// One of qemu's words: `created`, `running`, `paused`, `ready`, `aborting`, `concluded` and others.
  package var status: String
  /// Work done, in the job's own unit (bytes for backups).
  package var currentProgress: Int64
  /// Work known, in the job's own unit; it may grow while the job runs.
  package var totalProgress: Int64
  /// Why it failed; nil as long as it did not.
  package var error: String?

  private enum CodingKeys: String, CodingKey {
    case id, status, error
    case currentProgress = "current-progress"
    case totalProgress = "total-progress"
  }
}

extension QMPConnection {
  /// The job `id`, or nil when qemu knows none of that name.
  package func job(_ id: String) throws(QMPError) -> QEMUJob? {
    try execute("query-jobs", as: [QEMUJob].self).first { $0.id == id }
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
    let deadline = ContinuousClock.now + limit
    while true {
      guard let job = try job(id) else { throw .jobFailed(id: id, description: "it does not exist") }
      if job.status == "concluded" || job.status == "null" {
        if let error = job.error { throw .jobFailed(id: id, description: error) }
        _ = observe(job)
        return
      }
      guard observe(job) else { return }
      guard ContinuousClock.now < deadline else { throw .timedOut(awaited: "end of job \(id)") }
      // What is asked next is newer than any event that is already here, so old ones may go.
      _ = try nextEvent(within: interval) { event in
        event.name == "JOB_STATUS_CHANGE" && event.data["id"] == .string(id)
      }
    }
  }
}
