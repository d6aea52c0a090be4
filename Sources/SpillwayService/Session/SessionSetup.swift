internal import QEMUMonitor

/// What a session sends to qemu to take its moment (docs/inspection.md, "Setting up", 4 to 7).
struct SessionSetup {
  private let plan: SessionPlan
  private let monitor: SharedMonitor

  /// How long qemu tries to reach an ingest that went away, in seconds; a guest's write waits as long.
  static let reconnectSeconds = 30

  init(_ plan: SessionPlan, _ monitor: SharedMonitor) {
    self.plan = plan
    self.monitor = monitor
  }

  /// Starts the NBD server, unless one that runs is to be used, and adds the targets.
  func prepare() throws(ServiceError) {
    if plan.foreignServer == nil {
      do throws(QMPError) {
        try monitor.use { monitor throws(QMPError) in
          try monitor.startNBDServer(atUnixSocket: plan.sourceSocket, self.monitor.schema)
        }
      } catch .nbdServerRunning {
        throw .failed(
          "qemu's only NBD server runs already and does not tell where; name it with --nbd-server URI, "
            + "or stop it (nbd-server-stop)")
      } catch {
        throw .failed("\(error)")
      }
    }
    for disk in plan.disks {
      try send { monitor throws(QMPError) in
        try monitor.addNBDTarget(
          disk.target, atUnixSocket: plan.ingestSocket, export: disk.name,
          reconnectSeconds: Self.reconnectSeconds, self.monitor.schema)
      }
    }
  }

  /// **The moment**: one transaction with everything that must happen at the same instant.
  func takeMoment() throws(ServiceError) {
    try send { monitor throws(QMPError) in try monitor.run(QEMUTransaction(actions)) }
  }

  private var actions: [QEMUTransaction.Action] {
    plan.disks.flatMap { disk -> [QEMUTransaction.Action] in
      var job = QEMUBackup(id: disk.job, node: disk.node, target: disk.target, .beforeWrites)
      if plan.purpose == .inspect { return [.backup(job)] }
      // From this instant on it records what the next backup on top of this one has to copy.
      var actions: [QEMUTransaction.Action] = [
        .addBitmap(
          disk.bitmap, node: disk.node, granularity: Self.granularity, isPersistent: disk.keepsBitmaps)
      ]
      job.content = .full
      if let base = disk.baseBitmap {
        job.content = .marked(bitmap: base, .kept)
        actions += [
          .addBitmap(
            disk.frozenBitmap, node: disk.node, granularity: Self.granularity, isDisabled: true),
          .mergeBitmaps([base], into: disk.frozenBitmap, node: disk.node),
        ]
      }
      job.waitsForFinalize = true
      job.bytesPerSecond = plan.bytesPerSecond
      return actions + [.backup(job)]
    }
  }

  /// Bytes that a bit stands for: what qemu copies at a time.
  private static let granularity: Int64 = 65536

  /// Lets the engine read the live disks.
  func exportSources() throws(ServiceError) {
    for disk in plan.disks {
      try send { monitor throws(QMPError) in
        try monitor.addExport(disk.qemuExport, self.monitor.schema)
      }
    }
  }

  private func send(_ body: (any Monitor) throws(QMPError) -> Void) throws(ServiceError) {
    do throws(QMPError) { try monitor.use(body) } catch { throw .failed("\(error)") }
  }
}

extension SessionDisk {
  /// The export of the live disk, with the frozen bitmap if there is one.
  var qemuExport: QEMUExport {
    QEMUExport(id: export, node: node, name: export, bitmap: base == nil ? nil : frozenBitmap)
  }
}
