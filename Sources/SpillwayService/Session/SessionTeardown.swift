internal import QEMUMonitor

/// What a session takes away in qemu again, by the ids of its plan and nothing else (docs/inspection.md, "Tearing down", 2 to 5).
///
/// Any part of it may be gone, or may never have been there. What cannot be taken away is told and the rest goes on: an export
/// that stays does not keep the job from being cancelled.
struct SessionTeardown {
  private let plan: SessionPlan
  private let monitor: SharedMonitor

  init(_ plan: SessionPlan, _ monitor: SharedMonitor) {
    self.plan = plan
    self.monitor = monitor
  }

  /// Takes everything away. The bitmaps of `kept` disks stay: they belong to generations that are there. Returns what went
  /// wrong, a sentence each. The ingest must be served by somebody meanwhile, or the guest's writes fail.
  func run(keepingBitmapsOf kept: Set<String>) -> [String] {
    var problems: [String] = []
    func attempt(_ body: (any Monitor) throws(QMPError) -> Void) {
      if monitor.loss != nil { return }
      do throws(QMPError) { try monitor.use(body) } catch { problems.append("\(error)") }
    }
    for disk in plan.disks {
      attempt { monitor throws(QMPError) in try monitor.removeExport(disk.qemuExport, self.monitor.schema) }
    }
    for disk in plan.disks {
      attempt { monitor throws(QMPError) in _ = try monitor.endJob(disk.job) }
    }
    for disk in plan.disks {
      attempt { monitor throws(QMPError) in
        // qemu flushes first: that takes as long as the journal's disk does.
        let usual = monitor.timeout
        monitor.timeout = .seconds(600)
        defer { monitor.timeout = usual }
        try monitor.removeNode(disk.target)
      }
    }
    // That the session meant to start one does not say that it did: another's may have been there first. Whoever listens
    // at our address is ours.
    if plan.foreignServer == nil, StreamSocket.isListening(at: plan.sourceSocket) {
      attempt { monitor throws(QMPError) in try monitor.stopNBDServer() }
    }
    guard plan.purpose == .backup else { return problems }
    for disk in plan.disks {
      attempt { monitor throws(QMPError) in
        if disk.base != nil { try monitor.removeBitmap(disk.frozenBitmap, from: disk.node) }
        if !kept.contains(disk.name) { try monitor.removeBitmap(disk.bitmap, from: disk.node) }
      }
    }
    return problems
  }
}
