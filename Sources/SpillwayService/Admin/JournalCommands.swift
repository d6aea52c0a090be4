internal import ExtentJournal
internal import QEMUMonitor
internal import Threads

/// What the admin socket can ask of the daemon.
final class JournalCommands: @unchecked Sendable {
  // Sendable: `running` and `isClosed` are guarded by `lock`.

  private let journal: Journal
  private let stop: StopRequest

  private let lock = Lock()
  private let idle: Condition
  private var running = 0
  private var isClosed = false

  /// Each command with the arguments it takes.
  private static let known: [String: [String]] = [
    "status": [], "complete": ["disk"], "flush": [], "checkpoint": [], "shutdown": [],
  ]

  init(_ journal: Journal, stop: StopRequest) {
    self.journal = journal
    self.stop = stop
    idle = Condition(lock)
  }

  /// Carries out `request`. `shutdown` returns when the journal is closed, so that its client may open it.
  func run(_ request: AdminRequest) throws(ServiceError) -> JSONValue {
    guard let arguments = Self.known[request.command] else {
      let names = Self.known.keys.sorted().joined(separator: ", ")
      throw .usage("the command \(request.command) is unknown; there are \(names)")
    }
    if let unknown = request.arguments.keys.first(where: { !arguments.contains($0) }) {
      throw .usage("the command \(request.command) takes no argument \"\(unknown)\"")
    }
    if request.command == "shutdown" {
      stop.post(.asked)
      try stop.waitUntilSettled()
      return [:]
    }
    guard enter() else { throw .failed("the daemon is stopping") }
    defer { leave() }
    return try runOpen(request)
  }

  /// No command starts from here on; returns when those that run have ended. Nothing then uses the journal.
  func close() {
    lock.withLock {
      isClosed = true
      while running > 0 { idle.wait() }
    }
  }

  private func runOpen(_ request: AdminRequest) throws(ServiceError) -> JSONValue {
    switch request.command {
    case "status":
      return try JSONValue(
        encoding: reportingJournalErrors { () throws(JournalError) in try journal.status() })
    case "complete":
      let name = try request.string("disk")
      guard let disk = journal.disks.first(where: { $0.name == name }) else {
        let names = journal.disks.map(\.name).joined(separator: ", ")
        throw .usage("the journal has no disk \(name); it has \(names)")
      }
      try reportingJournalErrors { () throws(JournalError) in try disk.complete() }
    case "flush":
      try reportingJournalErrors { () throws(JournalError) in try journal.flush() }
    case "checkpoint":
      try reportingJournalErrors { () throws(JournalError) in try journal.checkpoint() }
    default:
      preconditionFailure("a command is listed as known and not carried out")
    }
    return [:]
  }

  private func enter() -> Bool {
    lock.withLock {
      if !isClosed { running += 1 }
      return !isClosed
    }
  }

  private func leave() {
    lock.withLock {
      running -= 1
      if running == 0 { idle.broadcast() }
    }
  }
}
