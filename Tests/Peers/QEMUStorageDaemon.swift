package import TestKit
package import QEMUMonitor

/// A real qemu without a guest: it holds a raw image as node `src` and pushes it as a backup job, exactly as a
/// qemu with a guest would.
package final class QEMUStorageDaemon {
  /// The process, for its stderr and its end.
  package let child: ChildProcess
  /// Its monitor.
  package let monitor: QMPConnection
  private var target = ""
  private var targetCount = 0

  /// The id of the backup job.
  package static let job = "push"

  /// Starts it over the raw image at `image`, with its monitor socket in `directory`.
  package init(image: String, in directory: TemporaryDirectory) throws {
    let socket = directory.file("qmp.sock")
    child = try Program.qemuStorageDaemon.start([
      "--chardev", "socket,id=qmp,path=\(socket),server=on,wait=off",
      "--monitor", "chardev=qmp,mode=control",
      "--blockdev", "driver=file,node-name=file,filename=\(image)",
      "--blockdev", "driver=raw,node-name=src,file=file",
    ])
    monitor = try QMPConnection(connectingTo: socket, of: child)
  }

  deinit { child.kill() }

  /// Starts a job that pushes the whole disk (sync=full) to an NBD export on a unix socket.
  ///
  /// `reconnectSeconds` is how long qemu tries to reach a server that went away before the job fails; 0: not at
  /// all. `bytesPerSecond` slows the job, so that its middle can be met; 0: as fast as it goes.
  package func startBackup(
    toUnixSocket path: String, export: String, reconnectSeconds: Int = 0, bytesPerSecond: Int64 = 0
  ) throws {
    targetCount += 1
    target = "target\(targetCount)"
    try monitor.execute(
      "blockdev-add",
      arguments: [
        "driver": "nbd", "node-name": .string(target), "export": .string(export), "discard": "unmap",
        "server": ["type": "unix", "path": .string(path)],
        "reconnect-delay": .integer(Int64(reconnectSeconds)),
      ])
    try monitor.execute(
      "blockdev-backup",
      arguments: [
        "job-id": .string(Self.job), "device": "src", "target": .string(target), "sync": "full",
        "auto-dismiss": false, "speed": .integer(bytesPerSecond),
      ])
  }

  /// Waits until the job's progress has passed `fraction` of the disk; an error if it ends before.
  package func waitForProgress(past fraction: Double, within limit: Duration = .seconds(120)) throws {
    var last: QEMUJob?
    try monitor.waitForJob(Self.job, every: .milliseconds(10), within: limit) { job in
      last = job
      return job.progress <= fraction
    }
    guard let last, last.status != "concluded" else {
      throw PeerError("the job ended before it could be met at \(fraction) of the disk: \(last as Any)")
    }
  }

  /// Changes the speed of the running job; 0: as fast as it goes.
  package func setSpeed(_ bytesPerSecond: Int64) throws {
    try monitor.execute(
      "block-job-set-speed", arguments: ["device": .string(Self.job), "speed": .integer(bytesPerSecond)])
  }

  /// Waits for the job to end well, then dismisses it and removes the target node: only then does qemu send its
  /// one FLUSH, and NBD_CMD_DISC.
  package func finishBackup(
    within limit: Duration = .seconds(240), observe: (QEMUJob) -> Void = { _ in }
  ) throws {
    try monitor.waitForJob(Self.job, within: limit) { job in
      observe(job)
      return true
    }
    try monitor.execute("job-dismiss", arguments: ["id": .string(Self.job)])
    try monitor.execute("blockdev-del", arguments: ["node-name": .string(target)])
  }
}

extension QEMUJob {
  /// Work done as a fraction of the work known.
  package var progress: Double {
    totalProgress > 0 ? Double(currentProgress) / Double(totalProgress) : 0
  }
}
