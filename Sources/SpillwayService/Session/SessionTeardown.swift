internal import Glibc
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

  /// Takes everything away but the bitmaps. Returns what went wrong, a sentence each. The ingest must be served by
  /// somebody meanwhile, or the guest's writes fail.
  func run() -> [String] {
    var problems: [String] = []
    for disk in plan.disks {
      attempt(&problems) { monitor throws(QMPError) in
        try monitor.removeExport(disk.qemuExport, self.monitor.schema)
      }
    }
    for disk in plan.disks {
      attempt(&problems) { monitor throws(QMPError) in _ = try monitor.endJob(disk.job) }
    }
    for disk in plan.disks {
      attempt(&problems) { monitor throws(QMPError) in
        // qemu flushes first: that takes as long as the journal's disk does.
        let usual = monitor.timeout
        monitor.timeout = .seconds(600)
        defer { monitor.timeout = usual }
        try monitor.removeNode(disk.target)
      }
    }
    if plan.foreignServer == nil, ownServerListens {
      attempt(&problems) { monitor throws(QMPError) in try monitor.stopNBDServer() }
    }
    return problems
  }

  /// Takes away the bitmaps that nobody needs any more: those of the bases of `kept` disks, whose generations are sealed,
  /// and those that the other disks' generations brought. Nil: it is not known which are sealed; both stay. Call it when
  /// the journal has settled durably which are, for a crash before that must find both.
  func removeBitmaps(keeping kept: Set<String>?) -> [String] {
    var problems: [String] = []
    guard plan.purpose == .backup else { return problems }
    for disk in plan.disks {
      if disk.base != nil { remove(disk.frozenBitmap, of: disk, &problems) }
      guard let kept else { continue }
      if !kept.contains(disk.name) {
        remove(disk.bitmap, of: disk, &problems)
      } else if let base = disk.baseBitmap {
        remove(base, of: disk, &problems)
      }
    }
    return problems
  }

  private func remove(_ bitmap: String, of disk: SessionDisk, _ problems: inout [String]) {
    attempt(&problems) { monitor throws(QMPError) in try monitor.removeBitmap(bitmap, from: disk.node) }
  }

  private func attempt(_ problems: inout [String], _ body: (any Monitor) throws(QMPError) -> Void) {
    if monitor.loss != nil { return }
    do throws(QMPError) { try monitor.use(body) } catch {
      // That qemu is gone is told once, by whoever runs the session.
      if monitor.loss == nil { problems.append("\(error)") }
    }
  }

  /// Whether qemu's server is the one that the session started. A session that was refused because another runs must leave
  /// that alone, and qemu does not tell whose it is; but nobody else listens at the session's own path. (A socket that nobody
  /// listens at is a dead qemu's.)
  private var ownServerListens: Bool { StreamSocket.isListening(at: plan.sourceSocket) }
}
