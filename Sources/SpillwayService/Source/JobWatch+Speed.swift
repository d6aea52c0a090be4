internal import ExtentJournal
internal import QEMUMonitor
internal import Threads

// How a job yields to reads of its source (JobThrottle says when). All of this runs on the watch's thread.
//
// The speed that the job had is recorded before it is lowered. So whoever comes after a crash gives it back, and only if the
// job still has the speed that it was lowered to: otherwise somebody else has set it since.

extension JobWatch {
  /// Lowers the speed of `job` while reads want that, and gives it back afterwards.
  func steer(_ job: WatchedJob, _ isListed: Bool, _ connection: QMPConnection) throws(QMPError) {
    let now = MonotonicClock.nanoseconds()
    let (throttle, isAlive) = lock.withLock { (job.throttle, job.liveness.state == .alive) }
    let isWanted = isAlive && throttle.isWanted(at: now)
    if let lowered = throttle.lowered {
      if !isWanted { try restore(lowered, of: job, isListed, connection) }
    } else if isWanted, throttle.isWorthwhile, let current = try speed(of: job, connection),
      let speed = throttle.lowerSpeed(than: current)
    {
      try lower(JobSpeed(job: job.id, bytesPerSecond: current, loweredTo: speed), of: job, connection)
    }
  }

  private func speed(of job: WatchedJob, _ connection: QMPConnection) throws(QMPError) -> UInt64? {
    try connection.execute("query-block-jobs", as: [BlockJob].self).first { $0.device == job.id }?.speed
  }

  private func lower(
    _ lowered: JobSpeed, of job: WatchedJob, _ connection: QMPConnection
  ) throws(QMPError) {
    do throws(JournalError) { try job.disk.recordLowered(lowered) } catch {
      return log(.error, "the speed of job \(job.id) could not be recorded and stays: \(error.message)")
    }
    lock.withLock { job.throttle.lowered = lowered }
    log(.debug, "job \(job.id) yields to reads: \(lowered.loweredTo) bytes a second")
    try set(lowered.loweredTo, lowered.job, connection)
  }

  /// Only if it is what it was lowered to: otherwise somebody else has set it since.
  private func restore(
    _ lowered: JobSpeed, of job: WatchedJob, _ isListed: Bool, _ connection: QMPConnection
  ) throws(QMPError) {
    if isListed, try speed(of: job, connection) == lowered.loweredTo {
      try set(lowered.bytesPerSecond, lowered.job, connection)
      log(.debug, "job \(lowered.job) has its speed again")
    }
    lock.withLock { job.throttle.lowered = nil }
    do throws(JournalError) { try job.disk.recordRestored() } catch {
      log(.error, "that job \(job.id) has its speed again could not be recorded: \(error.message)")
    }
  }

  /// A job that has ended meanwhile refuses, and needs no speed.
  private func set(_ speed: UInt64, _ job: String, _ connection: QMPConnection) throws(QMPError) {
    do throws(QMPError) {
      try connection.execute(
        "block-job-set-speed", arguments: ["device": .string(job), "speed": .integer(Int64(speed))])
    } catch .refused(_, _, let description) {
      log(.debug, "the speed of job \(job) could not be set: \(description)")
    }
  }

  /// The last thing: gives every job its speed back.
  func restoreSpeeds(_ connection: QMPConnection) {
    for job in lock.withLock({ jobs }) {
      guard let lowered = lock.withLock({ job.throttle.lowered }) else { continue }
      do throws(QMPError) { try restore(lowered, of: job, true, connection) } catch {
        return log(
          .warning, "the speed of job \(job.id) could not be restored; the next start will: \(error)")
      }
    }
  }
}

/// As much of a block job as `query-block-jobs` says and is of use here.
private struct BlockJob: Decodable {
  var device: String
  /// Bytes a second; 0: no limit.
  var speed: UInt64
}
