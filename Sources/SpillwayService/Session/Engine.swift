internal import Bytes
internal import ExtentJournal
internal import Glibc
internal import Logging
internal import NBDServer
internal import NBDSource
internal import QEMUMonitor
internal import Threads

/// `spillway engine`: the journal and the servers of a session, as a child of its parent (docs/inspection.md).
///
/// Start, in this order: signals blocked → record read → journal → what a crash left of earlier backups settled →
/// generations begun, or found again → sources, if the jobs run already → sockets → the parent is told.
///
/// It ends when the parent asks for it. When the parent dies it tears down what the record says first, and acknowledges
/// meanwhile. Signals do not end it: who stops a session stops the parent.
package final class SessionEngine {
  private let plan: SessionPlan
  private let runtimeDirectory: String
  private let log: Logger
  private let stop = StopRequest()
  /// Whether the engine did what its parent would have done.
  private var isTornDown = false

  /// The engine of the session whose record lies in `runtimeDirectory`.
  package init(runtimeDirectory: String) throws(ServiceError) {
    TerminationSignals.block()
    self.runtimeDirectory = runtimeDirectory
    plan = try SessionRecord.plan(in: runtimeDirectory)
    log = StandardErrorLog.logger(level: Logger.Level(rawValue: plan.logLevel) ?? .warning)
  }

  /// Serves until the session is over. Returns what the process should exit with.
  package func run() throws(ServiceError) -> Int32 {
    _ = ProcessSettings.tighten()
    _ = fcntl(EngineProcess.Inherited.lock, F_SETFD, FD_CLOEXEC)
    let link = try ParentLink(EngineProcess.Inherited.link) { [stop] in stop.post(.parentGone) }
    let journal: Journal
    do throws(ServiceError) { journal = try openJournal() } catch {
      link.say(EngineGreeting.failure(error))
      return error.status.rawValue
    }
    var outcome: Result<Int32, ServiceError> = .success(ExitStatus.done.rawValue)
    var admin: AdminServer?
    do throws(ServiceError) {
      try SessionResolution(journal, log).run(except: plan.tag)
      let disks = try openDisks(in: journal)
      outcome = .success(try serve(disks, of: journal, link, &admin))
    } catch {
      // The parent says it to the user, if it still waits for that.
      outcome = admin == nil ? .success(error.status.rawValue) : .failure(error)
      link.say(EngineGreeting.failure(error))
    }
    admin?.stopAccepting()
    do throws(JournalError) { try journal.close() } catch {
      if case .success = outcome { outcome = .failure(ServiceError(error)) }
    }
    if isTornDown { SessionRecord.removeFiles(plan) }
    if case .failure(let error) = outcome { stop.settle(error) } else { stop.settle(nil) }
    admin?.finish()
    link.end()
    return try outcome.get()
  }

  private func openJournal() throws(ServiceError) -> Journal {
    var options = JournalOptions()
    options.adminAddress = "unix:" + plan.adminSocket
    options.whenFull = WhenFull(rawValue: plan.whenFull) ?? .taint
    options.stallBudgetNanoseconds = plan.stallBudgetMilliseconds * 1_000_000
    options.quota = plan.quotaBytes.flatMap { Quota(byteCount: $0) }
    options.keptGenerations = plan.keptGenerations
    // A guest waits for its writes: what the ring lost is told by the taint, and does not keep them waiting.
    options.acceptLoss = true
    return try reportingJournalErrors { () throws(JournalError) in
      try Journal.open(plan.journal, options: options, log: log.forJournal)
    }
  }

  /// The generations of all disks, or an error and none: what was begun for it is ended then.
  private func openDisks(in journal: Journal) throws(ServiceError) -> [Disk] {
    var disks: [Disk] = []
    do throws(ServiceError) {
      for disk in plan.disks { disks.append(try open(disk, in: journal)) }
      return disks
    } catch {
      if plan.isSetUp { throw error }
      for disk in disks where !disk.isClosed {
        try reportingJournalErrors { () throws(JournalError) in
          try disk.end("its session could not begin: \(error.message)")
        }
      }
      throw error
    }
  }

  /// The generation of `disk`: the one that an earlier process of this session began, or a new one.
  private func open(_ disk: SessionDisk, in journal: Journal) throws(ServiceError) -> Disk {
    try reportingJournalErrors { () throws(JournalError) in
      let handle = try journal.disk(disk.name, byteCount: disk.byteCount, mode: .snapshot)
      // The tag says whose it is: the name alone may be that of a backup which was sealed long ago.
      if handle.generationName == disk.generation, handle.tag == plan.tag { return handle }
      return try journal.begin(
        disk.name,
        GenerationRequest(
          name: disk.generation, kind: GenerationKind(word: disk.kind) ?? .full, base: disk.base,
          tag: plan.tag))
    }
  }

  private func serve(
    _ disks: [Disk], of journal: Journal, _ link: ParentLink, _ admin: inout AdminServer?
  ) throws(ServiceError) -> Int32 {
    let sources = SessionSources(plan, disks, log)
    let server = JournalServer(
      journal, maximumConnections: 4096, rules: ViewRules(isReadOnce: plan.isReadOnce), log: log)
    defer {
      journal.stopWaiting()
      sources.end("the session is over")
      server.stop()
      sources.stop()
    }
    if plan.isSetUp { try sources.begin() }
    try server.listen(inheriting: EngineProcess.Inherited.ingest, as: .unix(path: plan.ingestSocket))
    _ = try server.listen(on: .unix(path: plan.viewSocket), viewsOnly: true)
    let commands = JournalCommands(journal, stop: stop)
    let session = SessionCommands(plan, disks, sources)
    let adminServer = try AdminServer(path: plan.adminSocket, log: log) { request throws(ServiceError) in
      if let answer = try session.run(request) { return answer }
      return try commands.run(request)
    }
    admin = adminServer
    try adminServer.start()
    link.say(EngineGreeting.serving(SessionCommands.layers(of: disks)))
    let reason = waitForEnd()
    defer { commands.close() }
    if reason == .parentGone {
      log.warning("the parent of the session is gone; the session is torn down")
      sources.end("the session is over: its parent is gone")
      tearDown(disks)
    }
    return ExitStatus.done.rawValue
  }

  private func waitForEnd() -> StopRequest.Reason {
    while true {
      let reason = stop.wait()
      if case .signal = reason { continue }
      return reason
    }
  }

  /// The monitor; nil when qemu is gone. Somebody else may have got hold of it first: as long as the jobs run the guest
  /// waits for our acknowledgements, so there is no giving up.
  private func connect(_ address: MonitorAddress) throws(ServiceError) -> SharedMonitor? {
    var lastProblem = ""
    while true {
      do throws(ServiceError) { return try address.connect(patience: .seconds(2)) } catch {
        if error.message != lastProblem { log.warning("\(error.message)") }
        lastProblem = error.message
        if address.isGone { return nil }
        // libvirt's monitor is shared: it is not that.
        if case .libvirt = address { throw error }
        poll(nil, 0, 200)
      }
    }
  }

  /// What the parent would have done. The sockets are served meanwhile.
  private func tearDown(_ disks: [Disk]) {
    do throws(ServiceError) {
      // What the parent stored last.
      let plan = try SessionRecord.plan(in: runtimeDirectory)
      plan.frozen?.thaw(log)
      // Nil when qemu is gone, and everything in it.
      let teardown = try connect(plan.monitor).map { SessionTeardown(plan, $0) }
      for problem in teardown?.run() ?? [] { log.warning("\(problem)") }
      // A backup of which everything was pre-sealed was whole, whatever became of its jobs.
      let isWhole = disks.allSatisfy { $0.isPreSealed || $0.isSealed }
      for disk in disks where !disk.isClosed {
        try reportingJournalErrors { () throws(JournalError) in
          if isWhole {
            try disk.seal()
          } else {
            try disk.end("the session was cut off: its parent was killed")
          }
        }
      }
      let sealed = Set(disks.filter(\.isSealed).map(\.name))
      for problem in teardown?.removeBitmaps(keeping: sealed) ?? [] { log.warning("\(problem)") }
      isTornDown = true
    } catch {
      log.error(
        "the session could not be torn down: \(error.message); the next one on this monitor cleans up")
    }
  }
}
