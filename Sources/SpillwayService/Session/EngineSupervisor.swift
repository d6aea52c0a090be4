internal import Bytes
internal import ExtentJournal
internal import Glibc
internal import Logging
internal import NBDServer
internal import QEMUMonitor
internal import Threads

// Keeps somebody behind the ingest socket for as long as a session has jobs: the guest's writes wait for whoever is there.
//
// 1. The listening socket is held here. While the engine is being started again, qemu's new connection waits in its queue.
// 2. An engine that has ended and is not back in time is given up: it is made sure that it is dead, the taint words
//    of its generations are set in the ring, and a DropServer takes its place. In this order: nothing is acknowledged and
//    forgotten that is not told.
// 3. From then on nothing but the DropServer serves the ingest, until `stop`.

/// The engine of a session, kept alive.
final class EngineSupervisor: @unchecked Sendable {
  // Sendable: `state`, `layers` and `isEnding` are guarded by `lock`; `engine`, `drop` and `journalIsDown` are used by one
  // thread at a time: the starter's, then the supervisor's, then that of `stop`.
  private let plan: SessionPlan
  private let socket: HeldSocket
  private let log: Logger
  private let onLoss: @Sendable () -> Void
  private let lock = Lock()
  private let changed: Condition
  private var state = State.starting
  private var layers: [LayerKey] = []
  private var isEnding = false
  private var hasEnded = false
  private var drop: DropServer?
  private var thread: WorkerThread?
  private let engine: EngineProcess

  private enum State: Equatable {
    case starting
    case serving
    case lost(String)
  }

  /// How long an engine may take that has a journal to recover, in seconds; nothing waits for it yet.
  private static let firstStartSeconds: UInt64 = 600
  /// How long a guest's writes may wait for an engine that is started again, in milliseconds: as long as for room on the
  /// disk, but a second at least, and always less than qemu's patience (`SessionSetup.reconnectSeconds`).
  private var restartMilliseconds: UInt64 { min(max(plan.stallBudgetMilliseconds, 1000), 20_000) }

  /// A supervisor that has started nothing. `onLoss` is called when the engine was given up, on a thread of ours.
  init(
    _ plan: SessionPlan, socket: HeldSocket, record: SessionRecord, log: Logger,
    onLoss: @escaping @Sendable () -> Void
  ) {
    self.plan = plan
    self.socket = socket
    self.log = log
    self.onLoss = onLoss
    let lock = lock
    let changed = Condition(lock)
    self.changed = changed
    let ended = Ended(lock, changed)
    engine = EngineProcess(plan, ingest: socket, record: record) { ended.set() }
    engineEnded = ended
  }

  /// Tells the supervisor that a process of the engine has ended.
  private final class Ended: @unchecked Sendable {
    // Sendable: `isSet` is guarded by the supervisor's lock.
    private let lock: Lock
    private let changed: Condition
    var isSet = false

    init(_ lock: Lock, _ changed: Condition) {
      self.lock = lock
      self.changed = changed
    }

    func set() {
      lock.withLock {
        isSet = true
        changed.broadcast()
      }
    }
  }
  private let engineEnded: Ended

  /// Starts the engine and returns when it serves: the generations that it serves (`SessionCommands.layers`). Throws what
  /// the engine could not do.
  func start() throws(ServiceError) -> String {
    let answer = try engine.start(within: Self.firstStartSeconds)
    try begin(answer)
    thread = WorkerThread(name: "supervisor") { self.watch() }
    guard thread != nil else {
      engine.kill()
      throw .failed("no thread is left to watch the engine; raise the limit of processes")
    }
    return EngineGreeting.layers(in: answer ?? "")
  }

  private func begin(_ answer: String?) throws(ServiceError) {
    guard let answer else {
      engine.kill()
      throw .failed("the engine did not start; its own lines say why")
    }
    if let error = EngineGreeting.error(in: answer) {
      engine.finish()
      throw error
    }
    let layers = SessionCommands.parseLayers(EngineGreeting.layers(in: answer))
    lock.withLock {
      self.layers = layers
      state = .serving
      changed.broadcast()
    }
  }

  // MARK: - The supervisor's thread

  private func watch() {
    while waitForDeath() {
      log.warning("the engine has died; it is started again")
      if restart() { continue }
      giveUp()
      return
    }
  }

  /// Waits until the engine has died while it is needed: then true.
  private func waitForDeath() -> Bool {
    lock.withLock {
      while !engineEnded.isSet, !hasEnded { changed.wait() }
      if hasEnded || isEnding { return false }
      state = .starting
      return true
    }
  }

  private func restart() -> Bool {
    let deadline = MonotonicClock.nanoseconds() + restartMilliseconds * 1_000_000
    var problem = ""
    while true {
      do throws(ServiceError) {
        engine.finish()
        // What ended before does not count against the one that is started now.
        lock.withLock { engineEnded.isSet = false }
        try begin(try engine.start(until: deadline))
        log.info("the engine is back")
        return true
      } catch {
        // One that did not get ready in time has nothing to say that its predecessor did not.
        if problem.isEmpty { problem = error.message }
      }
      guard MonotonicClock.nanoseconds() < deadline else {
        log.error("the engine does not come back: \(problem)")
        return false
      }
      poll(nil, 0, 50)
    }
  }

  private func giveUp() {
    engine.kill()
    let reason = "the engine died and was not back in time; what the guest overwrites is lost from here on"
    do throws(JournalError) {
      if !(try Journal.markTainted(lock.withLock { layers }, in: plan.journal)) {
        log.error("the journal's ring is gone; it is tainted for that when it is opened next")
      }
    } catch {
      log.error("the generations could not be marked as tainted: \(error.message)")
    }
    do throws(ServiceError) { drop = try DropServer(plan, on: socket, log: log) } catch {
      log.error("nobody takes the guest's writes: \(error.message)")
    }
    lock.withLock {
      state = .lost(reason)
      changed.broadcast()
    }
    log.error("\(reason)")
    onLoss()
  }

  // MARK: - What the session asks

  /// Why the engine was given up; nil while it was not.
  var loss: String? {
    lock.withLock { if case .lost(let reason) = state { reason } else { nil } }
  }

  /// Has the engine carry out `command`, which may be carried out twice: when the engine dies over it, its successor is
  /// asked again.
  @discardableResult
  func ask(_ command: String, _ arguments: [String: JSONValue] = [:]) throws(ServiceError) -> JSONValue {
    while true {
      try waitUntilServing()
      let client: AdminClient
      do throws(ServiceError) { client = try AdminClient(address: "unix:" + plan.adminSocket) } catch {
        guard try hasDied() else { throw error }
        continue
      }
      do throws(ServiceError) { return try client.execute(command, arguments) } catch {
        guard try hasDied() else { throw error }
      }
    }
  }

  private func waitUntilServing() throws(ServiceError) {
    try lock.withLock { () throws(ServiceError) in
      while state == .starting { changed.wait() }
      if case .lost(let reason) = state { throw .failed(reason) }
    }
  }

  /// Whether the engine's process has ended, perhaps a moment after its connection.
  private func hasDied() throws(ServiceError) -> Bool {
    try lock.withLock { () throws(ServiceError) in
      let deadline = MonotonicClock.nanoseconds() + 200_000_000
      while state == .serving, !engineEnded.isSet, MonotonicClock.nanoseconds() < deadline {
        _ = changed.wait(until: deadline)
      }
      // Nobody starts it again any more.
      if isEnding, engineEnded.isSet { throw .failed("the engine died while it was asked to end") }
      return state != .serving || engineEnded.isSet
    }
  }

  /// Nothing needs the ingest any more: ends the engine in good order, or the DropServer.
  func stop() {
    lock.withLock { isEnding = true }
    if loss == nil {
      do throws(ServiceError) { try ask("shutdown") } catch {
        if loss == nil { log.warning("the engine could not be asked to end: \(error.message)") }
      }
    }
    lock.withLock {
      hasEnded = true
      changed.broadcast()
    }
    thread?.join()
    thread = nil
    if loss == nil {
      let status = engine.finish()
      if status != 0 { log.warning("the engine ended with status \(status)") }
    }
    drop?.stop()
    drop = nil
  }
}

/// The one line that an engine says to its parent.
enum EngineGreeting {
  private static let ready = "ready "
  private static let failed = "failed "

  /// It serves the generations that `layers` names.
  static func serving(_ layers: String) -> String { ready + layers }

  /// It cannot serve.
  static func failure(_ error: ServiceError) -> String {
    "\(failed)\(error.status.rawValue) \(error.message)"
  }

  static func layers(in line: String) -> String {
    line.hasPrefix(ready) ? String(line.dropFirst(ready.count)) : ""
  }

  static func error(in line: String) -> ServiceError? {
    guard line.hasPrefix(failed) else { return nil }
    let words = line.dropFirst(failed.count).split(separator: " ", maxSplits: 1)
    guard words.count == 2, let status = Int32(words[0]).flatMap(ExitStatus.init(rawValue:)) else {
      return .notUnderstood
    }
    return ServiceError(status, String(words[1]))
  }
}
