package import ExtentJournal

/// A job that a `JobWatch` asks about, and the disk that it feeds.
package final class WatchedJob: @unchecked Sendable {
  // Sendable: constants, and variables guarded by the watch's lock.
  /// Its name in the monitor.
  package let id: String
  /// What it feeds.
  package let disk: Disk
  var liveness: JobLiveness
  var throttle: JobThrottle

  /// The job `id` of `disk`; what the journal has recorded of it is taken over.
  package init(_ id: String, of disk: Disk) {
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
