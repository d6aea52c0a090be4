internal import Logging
internal import QEMUMonitor

/// The socket where the engine asks about jobs and sets their speed, and nothing else: the parent owns the monitor.
struct MonitorProxy {
  private let server: AdminServer

  /// Serves the questions at the plan's socket.
  init(_ plan: SessionPlan, _ monitor: SharedMonitor, log: Logger) throws(ServiceError) {
    server = try AdminServer(path: plan.monitorSocket, log: log) { request throws(ServiceError) in
      do throws(QMPError) {
        switch request.command {
        case "query-jobs", "query-block-jobs":
          return try monitor.ask { monitor throws(QMPError) in try monitor.execute(request.command) }
        case "block-job-set-speed":
          return try monitor.use { monitor throws(QMPError) in
            try monitor.execute(request.command, arguments: .object(request.arguments))
          }
        default:
          throw QMPError.refused(command: request.command, class: "CommandNotFound", description: "not here")
        }
      } catch {
        throw .failed("\(error)")
      }
    }
    try server.start()
  }

  /// Answers nobody any more.
  func stop() {
    server.stopAccepting()
    server.finish()
  }
}
