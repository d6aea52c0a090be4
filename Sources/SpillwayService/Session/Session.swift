internal import Bytes
internal import ExtentJournal
internal import Glibc
internal import Logging
internal import NBDServer
internal import QEMUMonitor
internal import Threads

/// The parent of a session, from the record to its removal (docs/inspection.md).
///
/// `Inspection` and `Backup` say what happens between setting up and tearing down. Whatever goes wrong in between, the
/// teardown runs, in the safe order.
final class Session {
  let plan: SessionPlan
  let monitor: SharedMonitor
  let engine: EngineSupervisor
  let log: Logger
  private let configuration: SessionConfiguration
  private let record: SessionRecord
  private let socket: HeldSocket
  private let proxy: MonitorProxy
  /// Whether generations are pre-sealed or about to be: from then on a crash of the engine may end in their seal.
  var mayBeSealed = false
  /// What the main thread has to look at, besides signals.
  let inbox: SessionInbox

  /// Finds the nodes, cleans up after a session that was cut off, stores the record and starts the engine.
  init(_ configuration: SessionConfiguration) throws(ServiceError) {
    TerminationSignals.block()
    self.configuration = configuration
    let log = StandardErrorLog.logger(level: configuration.logLevel)
    self.log = log
    let record = try SessionRecord(for: configuration.monitor)
    self.record = record
    let leftover = try record.read()
    let monitor: SharedMonitor
    if let leftover {
      monitor = try SessionCleanup(leftover, record, log).run()
    } else {
      monitor = try configuration.monitor.connect(
        patience: .milliseconds(configuration.monitorTimeoutMilliseconds))
    }
    self.monitor = monitor
    let inbox = SessionInbox()
    self.inbox = inbox

    var plan = try SessionPlanner(configuration, record.path, monitor).plan()
    _ = ProcessSettings.tighten()
    do throws(ServiceError) {
      try record.write(plan)
      try SessionPlanner.makeTemporaryJournal(plan)
      do throws(ServerError) { socket = try HeldSocket(binding: .unix(path: plan.ingestSocket)) } catch {
        throw .failed("\(error)")
      }
      try record.admit(user: configuration.monitor.user, plan: plan)
      proxy = try MonitorProxy(plan, monitor, log: log)
      engine = EngineSupervisor(plan, socket: socket, record: record, log: log) { inbox.post(.engineLost) }
      plan.layers = try engine.start()
      try record.write(plan)
      Failpoint.pass(.sessionBegun)
    } catch {
      record.remove(plan)
      throw error
    }
    self.plan = plan
  }

  /// Takes the moment and attaches the live disks, runs `body`, and takes away what is in qemu; the bitmaps go with `end`.
  func run(_ body: () throws(ServiceError) -> Void) throws(ServiceError) {
    var failure: ServiceError?
    do throws(ServiceError) {
      try setUp()
      try body()
    } catch {
      failure = error
    }
    tearDown()
    let loss = monitor.loss.map { ServiceError.failed("qemu is gone: \($0)") }
    if let failure { throw loss ?? failure }
    if let loss { log.error("\(loss.message)") }
  }

  private func setUp() throws(ServiceError) {
    let setup = SessionSetup(plan, monitor)
    try setup.prepare()
    try withFrozenGuest { () throws(ServiceError) in try setup.takeMoment() }
    Failpoint.pass(.sessionMoment)
    try setup.exportSources()
    var plan = plan
    plan.isSetUp = true
    try record.write(plan)
    try engine.ask(SessionCommands.Name.attach)
  }

  /// Runs `body` while the guest's filesystems are frozen, if that was asked for; they are thawed in every case.
  private func withFrozenGuest(_ body: () throws(ServiceError) -> Void) throws(ServiceError) {
    guard configuration.freeze else { return try body() }
    let address = try agentAddress()
    let agent: any GuestAgent
    do throws(QMPError) { agent = try address.connect() } catch {
      throw .failed(
        "--freeze: the guest agent cannot be reached (\(error)); name its socket with --agent PATH")
    }
    // Whoever tears down for us has to thaw. The record says so until it is written next.
    var plan = plan
    plan.frozen = address
    try record.write(plan)
    defer {
      // Also when freezing failed: it may have come too late, or to some filesystems.
      do throws(QMPError) { try agent.thaw() } catch {
        log.error("THE GUEST'S FILESYSTEMS MAY STILL BE FROZEN: \(error)")
      }
    }
    do throws(QMPError) { try agent.freeze() } catch {
      throw .failed("the guest's filesystems could not be frozen: \(error)")
    }
    try body()
  }

  private func agentAddress() throws(ServiceError) -> AgentAddress {
    if case .libvirt(let domain) = plan.monitor { return .libvirt(domain: domain) }
    if let path = configuration.agent { return .socket(path: path) }
    do throws(QMPError) {
      if let path = try monitor.ask({ monitor throws(QMPError) in try monitor.guestAgentSocket() }) {
        return .socket(path: path)
      }
    } catch {
      throw .failed(
        "--freeze: the guest agent cannot be reached (\(error)); name its socket with --agent PATH")
    }
    throw .failed(
      "--freeze: qemu has no channel of a guest agent that can be told; name its socket with --agent PATH")
  }

  /// In the order of docs/inspection.md; nothing keeps the next step from being tried.
  private func tearDown() {
    do throws(ServiceError) {
      try engine.ask(SessionCommands.Name.detach, ["reason": "the session is over"])
    } catch {
      log.debug("\(error.message)")
    }
    for problem in SessionTeardown(plan, monitor).run() { log.error("\(problem)") }
  }

  /// Ends the generations that are not sealed, then the engine and everything else. After `run`.
  func end(reason: String) {
    var sealed: Set<String>? = mayBeSealed ? nil : []
    do throws(ServiceError) {
      sealed = SessionCommands.names(
        in: try engine.ask(SessionCommands.Name.end, ["reason": .string(reason)]))
    } catch {
      log.debug("\(error.message)")
    }
    if engine.loss != nil, plan.purpose == .backup {
      // Which bitmaps are needed only the journal knows.
      engine.stop()
      sealed = JournalSettlement(plan, log).run("the engine died: \(reason)")
    }
    for problem in SessionTeardown(plan, monitor).removeBitmaps(keeping: sealed) { log.warning("\(problem)") }
    engine.stop()
    proxy.stop()
    record.remove(plan)
    // Last of all: if that goes wrong, nothing is left of the session all the same.
    if engine.loss != nil, plan.purpose == .inspect, !plan.isTemporary {
      JournalSettlement(plan, log).run("the engine died: \(reason)")
    }
  }
}

/// What other threads tell the main thread of a session.
final class SessionInbox: @unchecked Sendable {
  // Sendable: `news` is guarded by `lock`.

  enum News: Hashable {
    /// The engine was given up.
    case engineLost
    /// COMMAND has ended.
    case commandEnded
  }

  private let lock = Lock()
  private var news: Set<News> = []

  /// Tells it, and wakes it.
  func post(_ what: News) {
    lock.withLock { _ = news.insert(what) }
    TerminationSignals.wake()
  }

  /// Whether `what` was told.
  func has(_ what: News) -> Bool { lock.withLock { news.contains(what) } }
}
