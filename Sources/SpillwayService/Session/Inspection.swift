internal import Bytes
internal import ExtentJournal
internal import Glibc
internal import Logging
internal import NBDServer
internal import QEMUMonitor

/// `spillway inspect`: a moment of a running guest's disks, for as long as COMMAND runs.
package struct Inspection {
  private let configuration: SessionConfiguration

  /// Nothing is done yet.
  package init(_ configuration: SessionConfiguration) { self.configuration = configuration }

  /// Runs to the end of COMMAND, or of the wish to look. Returns what the process should exit with. Call it from the
  /// process's only thread.
  package func run() throws(ServiceError) -> Int32 {
    let session = try Session(configuration)
    var status = ExitStatus.done.rawValue
    var problem: ServiceError?
    var report: SessionReport?
    do throws(ServiceError) {
      try session.run { () throws(ServiceError) in
        status = try look(session)
      }
      // qemu has flushed when its nodes went: everything that was caught is stored.
      report = SessionReport(session)
    } catch {
      problem = error
    }
    session.end(reason: "the inspection is over")
    if let text = report?.text { StandardError.printLine(text) }
    if let problem { throw problem }
    if status == 0, report?.isTainted == true { return ExitStatus.failed.rawValue }
    return status
  }

  /// What happens between setting up and tearing down.
  private func look(_ session: Session) throws(ServiceError) -> Int32 {
    let views = SessionViews(session.plan)
    guard !configuration.command.isEmpty else {
      for line in views.lines { print(line) }
      fflush(nil)
      return try watch(session, command: nil) ? ExitStatus.done.rawValue : ExitStatus.failed.rawValue
    }
    var start = ChildProgram.Start(
      configuration.command[0], views.expand(Array(configuration.command.dropFirst())))
    start.variables = views.variables
    let command = try ChildProgram(start, purpose: configuration.command[0]) { [inbox = session.inbox] in
      inbox.post(.commandEnded)
    }
    let isWhole = try watch(session, command: command)
    let status = command.finish()
    return status == 0 && !isWhole ? ExitStatus.failed.rawValue : status
  }

  /// Waits for the end of COMMAND, or without one for a signal. False when the view broke meanwhile.
  private func watch(_ session: Session, command: ChildProgram?) throws(ServiceError) -> Bool {
    var isWhole = true
    var isAsked = false
    while true {
      if let signal = TerminationSignals.wait(milliseconds: 500), TerminationSignals.isEnding(signal) {
        guard let command else { return isWhole }
        // Once is a request; who asks twice means it.
        if isAsked { command.kill() } else { command.terminate() }
        isAsked = true
      }
      if session.inbox.has(.commandEnded) { return isWhole }
      guard isWhole, let reason = breach(session) else { continue }
      isWhole = false
      session.log.error("the view is broken: \(reason)")
      if command == nil { return false }
    }
  }

  /// Why the moment is lost, if it is.
  private func breach(_ session: Session) -> String? {
    if let loss = session.engine.loss { return loss }
    do throws(QMPError) {
      let jobs = try session.monitor.ask { monitor throws(QMPError) in try monitor.jobs() }
      for disk in session.plan.disks {
        guard let job = jobs.first(where: { $0.id == disk.job }) else {
          return "the job of \(disk.name) is gone"
        }
        if !job.isAlive {
          return "the job of \(disk.name) is \(job.status)\(job.error.map { ": \($0)" } ?? "")"
        }
      }
      return nil
    } catch {
      return "qemu cannot be asked any more: \(error)"
    }
  }
}

/// The views of a session's disks, as programs are told of them.
struct SessionViews {
  private let plan: SessionPlan

  init(_ plan: SessionPlan) { self.plan = plan }

  private func export(_ disk: SessionDisk) -> String { "\(disk.name)@\(disk.generation)" }

  private func uri(_ disk: SessionDisk) -> String {
    ListenAddress.unix(path: plan.viewSocket).uri(export: export(disk))
  }

  /// Name and URI of each disk.
  var lines: [String] { plan.disks.map { "\($0.name) \(uri($0))" } }

  /// What COMMAND finds in its environment. `uri` is a view as well: nobody writes here but qemu.
  var variables: [String: String] {
    let first = uri(plan.disks[0])
    return [
      "uri": first, "view_uri": first, "view_uris": plan.disks.map(uri).joined(separator: " "),
      "view_unixsocket": plan.viewSocket,
    ]
  }

  /// `arguments` with `{}` replaced by the disks as libguestfs takes them: its 1.48 knows no `nbd+unix`.
  func expand(_ arguments: [String]) -> [String] {
    arguments.flatMap { argument -> [String] in
      guard argument == "{}" else { return [argument] }
      return plan.disks.flatMap { disk in
        ["--format=raw", "-a", "nbd:///\(export(disk))?socket=\(plan.viewSocket)"]
      }
    }
  }
}
