internal import ExtentJournal

/// A job that a `JobWatch` asks about, and the disk that it feeds.
final class WatchedJob: @unchecked Sendable {
  // Sendable: constants, and variables guarded by the watch's lock.
  let id: String
  let disk: Disk
  var liveness: JobLiveness
  var throttle: JobThrottle

  init(_ id: String, of disk: Disk) {
    self.id = id
    self.disk = disk
    liveness = JobLiveness(job: id, wasSeen: disk.seenJob == id)
    throttle = JobThrottle(lowered: disk.loweredJob)
  }

  /// Whether the monitor may still have something to say of it.
  var needsMonitor: Bool {
    if throttle.lowered != nil { return true }
    if case .dead = liveness.state { return false }
    return true
  }
}
