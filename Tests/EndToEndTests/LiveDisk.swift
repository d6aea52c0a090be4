import Foundation
import Peers
import QEMUMonitor
import TestKit

/// A machine whose disk is pushed by a job into a daemon, which reads the live disk besides.
final class LiveDisk {
  /// The id of the job.
  static let job = "moment"

  let directory: TemporaryDirectory
  let machine: QEMUMachine
  /// What the disk held at the moment of the job.
  let original: String
  let byteCount: UInt64
  private(set) var daemon: SpillwayDaemon
  private let environment: [String: String]

  /// A disk of `byteCount` bytes; its job is not started. `environment` is the daemon's.
  init(
    byteCount: UInt64, seed: UInt64, in directory: TemporaryDirectory, environment: [String: String] = [:]
  ) throws {
    self.directory = directory
    self.byteCount = byteCount
    self.environment = environment
    original = directory.file("original.raw")
    try PatternedImage(at: original, byteCount: byteCount, seed: seed)
    try FileManager.default.copyItem(atPath: original, toPath: directory.file("live.raw"))
    machine = try QEMUMachine([.init(directory.file("live.raw"))], in: directory)
    let socket = directory.file("source.sock")
    try machine.monitor.execute(
      "nbd-server-start", arguments: ["addr": ["type": "unix", "data": ["path": .string(socket)]]])
    try machine.monitor.execute(
      "block-export-add",
      arguments: ["type": "nbd", "id": "source", "node-name": "src0", "name": "live", "writable": false])
    daemon = try Self.serve(byteCount, machine, in: directory, environment)
    try machine.monitor.execute(
      "blockdev-add",
      arguments: [
        "driver": "nbd", "node-name": "target", "export": "vda", "reconnect-delay": 120,
        "server": ["type": "unix", "path": .string(daemon.ingestSocket)],
      ])
  }

  private static func serve(
    _ byteCount: UInt64, _ machine: QEMUMachine, in directory: TemporaryDirectory,
    _ environment: [String: String]
  ) throws -> SpillwayDaemon {
    let uri = "nbd+unix:///live?socket=\(directory.file("source.sock"))"
    return try SpillwayDaemon(
      journal: directory.file("journal"), disks: ["vda=\(byteCount),mode=snapshot"], in: directory,
      ["--source", "vda=\(uri),job=\(job)", "--qmp", machine.monitorSocket, "--log-level", "debug"],
      environment: environment)
  }

  /// Kills the daemon and starts it anew.
  func restartDaemon() throws {
    daemon.kill()
    daemon = try Self.serve(byteCount, machine, in: directory, environment)
  }

  var view: String { daemon.viewURI("vda@live") }

  /// The moment: from here on the guest's writes are copied before. With `sync` full everything else follows.
  func startJob(sync: String = "none", bytesPerSecond: Int64 = 0) throws {
    try machine.monitor.execute(
      "blockdev-backup",
      arguments: [
        "job-id": .string(Self.job), "device": "src0", "target": "target", "sync": .string(sync),
        "auto-dismiss": false, "speed": .integer(bytesPerSecond),
      ])
  }

  /// Ends the job and forgets it, so that another may have its name.
  func cancelJob() throws {
    let id: JSONValue = .string(Self.job)
    try machine.monitor.execute("job-cancel", arguments: ["id": id])
    do { try machine.monitor.waitForJob(Self.job, within: .seconds(60)) } catch QMPError.jobFailed {}
    try machine.monitor.execute("job-dismiss", arguments: ["id": id])
  }

  /// The speed of the job, as qemu has it.
  func speed() throws -> Int64? {
    try machine.monitor.execute("query-block-jobs").array?.first { $0["device"]?.string == Self.job }?[
      "speed"]?
      .integer
  }
}

/// A place where a daemon's thread stops once, until the test lets it go on (SPILLWAY_HOLD).
struct HeldStage {
  private let path: String
  let environment: [String: String]

  init(_ stage: String, in directory: TemporaryDirectory) throws {
    try self.init(stage, at: directory.file("hold.fifo"))
  }

  /// As the other, with the FIFO's own path.
  init(_ stage: String, at path: String) throws {
    self.path = path
    guard mkfifo(path, 0o600) == 0 else { throw PeerError("cannot make \(path)") }
    environment = ["SPILLWAY_HOLD": "\(stage):\(path)"]
  }

  /// As the other, unless `child`, which is to get there, ends before: that is an error.
  func meet(_ child: ChildProcess, _ body: () throws -> Void) throws {
    var descriptor: Int32 = -1
    let deadline = ContinuousClock.now + .seconds(120)
    while descriptor < 0 {
      // Without a reader there is ENXIO.
      descriptor = open(path, O_WRONLY | O_CLOEXEC | O_NONBLOCK)
      guard descriptor < 0 else { break }
      guard !child.hasEnded(within: .milliseconds(5)), ContinuousClock.now < deadline else {
        throw PeerError(
          "\(child.command): never got to \(environment)\n\(child.errorLines.joined(separator: "\n"))")
      }
    }
    defer { close(descriptor) }
    try body()
  }

  /// Waits until a thread is there, calls `body`, and lets the thread go on.
  func meet(_ body: () throws -> Void) throws {
    let descriptor = open(path, O_WRONLY | O_CLOEXEC)
    guard descriptor >= 0 else { throw PeerError("cannot open \(path)") }
    defer { close(descriptor) }
    try body()
  }
}
