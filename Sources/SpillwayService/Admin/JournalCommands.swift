internal import Bytes
internal import ExtentJournal
internal import QEMUMonitor
internal import Threads

/// What the admin socket can ask of the daemon.
final class JournalCommands: @unchecked Sendable {
  // Sendable: `running` and `isClosed` are guarded by `lock`.

  private let journal: Journal
  private let stop: StopRequest
  private let onBegin: @Sendable (Disk) throws(ServiceError) -> Void

  private let lock = Lock()
  private let idle: Condition
  private var running = 0
  private var isClosed = false

  /// Each command with the arguments it takes.
  private static let known: [String: [String]] = [
    "status": [], "complete": ["disk"], "begin": ["disk", "generation", "kind", "base", "tag"],
    "seal": ["disk", "generation"], "end": ["disk", "generation", "reason"], "flush": [], "checkpoint": [],
    "release": ["disk", "generation", "offset", "length"], "drop": ["disk", "generation"],
    "compact": ["recompress"],
    "shutdown": [],
  ]

  /// `onBegin` is called for each generation that a command has opened, before the command returns.
  init(
    _ journal: Journal, stop: StopRequest,
    onBegin: @escaping @Sendable (Disk) throws(ServiceError) -> Void = { _ in }
  ) {
    self.journal = journal
    self.onBegin = onBegin
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
      let disk = try newest(request)
      try reportingJournalErrors { () throws(JournalError) in try disk.complete() }
    case "begin":
      return try begin(request)
    case "seal":
      let (disk, name) = (try newest(request), try request.string("generation"))
      try reportingJournalErrors { () throws(JournalError) in try disk.seal(as: name) }
    case "end":
      let (name, reason) = (try request.string("disk"), try request.string("reason"))
      let generation = try request.string("generation")
      try reportingJournalErrors { () throws(JournalError) in
        try journal.generation(of: name, named: generation).end(reason)
      }
    case "compact":
      return try JSONValue(
        encoding: reportingJournalErrors { () throws(JournalError) in
          try journal.upkeep(recompresses: request.arguments["recompress"] == .bool(true)) {
            lock.withLock { isClosed }
          }
        })
    case "drop":
      let (name, generation) = (try request.string("disk"), try request.string("generation"))
      try reportingJournalErrors { () throws(JournalError) in try journal.drop(generation, of: name) }
    case "release":
      try release(request)
    case "flush":
      try reportingJournalErrors { () throws(JournalError) in try journal.flush() }
    case "checkpoint":
      try reportingJournalErrors { () throws(JournalError) in try journal.checkpoint() }
    default:
      preconditionFailure("a command is listed as known and not carried out")
    }
    return [:]
  }

  /// The newest generation of the disk that `request` names.
  private func newest(_ request: AdminRequest) throws(ServiceError) -> Disk {
    let name = try request.string("disk")
    return try reportingJournalErrors { () throws(JournalError) in
      try journal.generation(of: name, named: Journal.liveName)
    }
  }

  /// Gives up a range of a generation, durably: of the newest one, unless the request names another.
  private func release(_ request: AdminRequest) throws(ServiceError) {
    let (name, range) = (try request.string("disk"), try Self.range(request))
    let hasName = request.arguments["generation"] != nil
    let generation = hasName ? try request.string("generation") : Journal.liveName
    try reportingJournalErrors { () throws(JournalError) in
      try journal.generation(of: name, named: generation).release(range).wake()
      try journal.flush()
    }
  }

  private static func range(_ request: AdminRequest) throws(ServiceError) -> ByteRange {
    let (offset, length) = (try request.string("offset"), try request.string("length"))
    guard let start = ByteCount.parse(offset), let count = ByteCount.parse(length), count > 0 else {
      throw .usage(
        "release \(offset) \(length): an offset and a length in bytes are needed, such as 0 and 64K")
    }
    guard start % Sector.byteCount == 0, count % Sector.byteCount == 0 else {
      throw .usage(
        "release \(offset) \(length): what is released is whole sectors of \(Sector.byteCount) bytes")
    }
    return ByteRange(offset: start, count: count)
  }

  /// Opens a generation: a full one, unless the request says otherwise.
  private func begin(_ request: AdminRequest) throws(ServiceError) -> JSONValue {
    let disk = try request.string("disk")
    var wanted = GenerationRequest(name: try request.string("generation"))
    if request.arguments["kind"] != nil {
      let word = try request.string("kind")
      guard let kind = GenerationKind(word: word) else {
        throw .usage("\(word) is no kind of generation; there are full, incremental and cow")
      }
      wanted.kind = kind
    }
    if request.arguments["base"] != nil { wanted.base = try request.string("base") }
    if request.arguments["tag"] != nil { wanted.tag = try request.string("tag") }
    let request = wanted
    let begun = try reportingJournalErrors { () throws(JournalError) in try journal.begin(disk, request) }
    try onBegin(begun)
    return ["number": .integer(Int64(begun.generationNumber))]
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
