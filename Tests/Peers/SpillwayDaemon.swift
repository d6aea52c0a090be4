package import TestKit

/// A running `spillway serve`.
package final class SpillwayDaemon {
  /// The process, for its stderr and its end.
  package let child: ChildProcess
  /// The journal directory.
  package let journal: String
  /// The socket of the ingest exports, and that of the views.
  package let ingestSocket: String
  package let viewSocket: String

  /// Starts the daemon on `journal` and returns when it says that it is ready.
  ///
  /// `disks` are values of `--disk`. Started again with the same arguments it takes the same journal and the same
  /// sockets over, as a service manager would have it do. `launcher` is a command line that ends in executing the
  /// words that follow it, in place: `unshare` or `sh -c 'exec "$@"'`.
  package init(
    journal: String, disks: [String], in directory: TemporaryDirectory, _ more: [String] = [],
    launcher: [String] = [], environment: [String: String] = [:]
  ) throws {
    ingestSocket = directory.file("ingest.sock")
    viewSocket = directory.file("view.sock")
    let serve =
      try launcher + [Spillway.path(), "serve", "-j", journal]
      + disks.flatMap { ["--disk", $0] }
      + ["--listen", "unix:\(ingestSocket)", "--view", "unix:\(viewSocket)"] + more
    child = try ChildProcess(serve[0], Array(serve[1...]), environment: environment)
    // A launcher may have given it filesystems of its own; seen through its root the path is right either way.
    self.journal = launcher.isEmpty ? journal : "/proc/\(child.processID)/root\(journal)"
    try child.waitForErrorLine(containing: "ready", ingestSocket, within: .seconds(60))
  }

  deinit { child.kill() }

  /// The URI of an export on the ingest socket.
  package func ingestURI(_ name: String) -> String { "nbd+unix:///\(name)?socket=\(ingestSocket)" }

  /// The URI of an export on the view socket.
  package func viewURI(_ name: String) -> String { "nbd+unix:///\(name)?socket=\(viewSocket)" }

  /// What it says of itself.
  package func status() throws -> SpillwayStatus { try Spillway.status(journal) }

  /// Runs `spillway ctl`.
  package func control(_ arguments: String...) throws {
    try Spillway.run(["ctl", "-j", journal] + arguments).succeeded()
  }

  /// Waits until its status is as wanted. Asking starts a process each time, which is pace enough.
  @discardableResult
  package func waitForStatus(
    _ what: String, within limit: Duration = .seconds(60), where isWanted: (SpillwayStatus) -> Bool
  ) throws -> SpillwayStatus {
    let deadline = ContinuousClock.now + limit
    while true {
      let status = try status()
      if isWanted(status) { return status }
      guard ContinuousClock.now < deadline else { throw PeerError("never \(what): \(status)") }
    }
  }

  /// Ends it in an orderly way and waits for that.
  package func shutDown() throws {
    try control("shutdown")
    try child.finish(within: .seconds(60)).succeeded()
  }

  /// Ends it at once, as a crash or the kernel's memory killer would.
  package func kill() { child.kill() }
}
