internal import Bytes
package import ExtentJournal
package import Logging
package import NBDServer

/// What `serve` does, checked: every path is absolute and every number in its range.
package struct ServeConfiguration: Sendable {
  /// The journal directory.
  package var directory: JournalLocation
  /// The disks of the command line, in order; their names differ.
  package var disks: [DiskSpecification]
  /// The sources of disks; at most one a disk. One with a job has a `monitor`.
  package var sources: [SourceSpecification]
  /// The path of the monitor that jobs are asked about at.
  package var monitor: String?
  /// Where every export is served; never empty. No address is twice in this list, `view` and the admin socket.
  package var listen: [ListenAddress]
  /// Whether `listen` is what was not asked for.
  package var listenIsDefault: Bool
  /// Where only views are served; never empty.
  package var view: [ListenAddress]
  /// Whether `view` is what was not asked for.
  package var viewIsDefault: Bool
  /// Whether and how clients use TLS; nil when they cannot.
  package var tls: TLSSpecification?
  /// The path of the admin socket.
  package var adminPath: String
  /// The shell command to run, if one was given.
  package var command: String?
  /// What readers of views may do.
  var rules: ViewRules
  /// What of disks is wanted; at most one a disk.
  package var interests: [InterestSpecification]
  /// How the journal is opened.
  package var journal: JournalOptions
  /// Where the process id is written, if anywhere.
  package var pidFile: String?
  /// The least important log line that is printed.
  package var logLevel: Logger.Level
  /// How many NBD connections are served at once.
  package var maximumConnections: Int

  /// The number of connections unless told otherwise.
  package static let maximumConnectionsDefault = 4096
  /// The smallest spool in bytes: below it a few large writes would fill the ring.
  package static let spoolByteCountMin: UInt64 = 16 << 20

  /// Checks `arguments`; relative paths are seen from `currentDirectory`.
  package init(_ arguments: ServeArguments, currentDirectory: String) throws(ServiceError) {
    directory = try JournalLocation(parsing: arguments.journal, currentDirectory: currentDirectory)
    disks = try Self.parseDisks(arguments.disks)
    sources = try Self.parseSources(arguments.sources, hasMonitor: arguments.monitor != nil)
    monitor = arguments.monitor.map { AbsolutePath.of($0, in: currentDirectory) }
    listen = try Self.parseAddresses(
      arguments.listen, option: "--listen", unless: directory.path(of: "ingest.sock"), currentDirectory)
    view = try Self.parseAddresses(
      arguments.view, option: "--view", unless: directory.path(of: "view.sock"), currentDirectory)
    (listenIsDefault, viewIsDefault) = (arguments.listen.isEmpty, arguments.view.isEmpty)
    tls = try TLSSpecification(arguments, currentDirectory: currentDirectory)
    let admin = try Self.parseAddresses(
      arguments.admin.map { [$0] } ?? [], option: "--admin", unless: directory.path(of: "admin.sock"),
      currentDirectory)
    guard let adminPath = admin[0].unixPath else {
      throw .usage("--admin \(admin[0]): the admin socket is unix:PATH")
    }
    self.adminPath = adminPath
    if let twice = Self.firstDuplicate(listen + view + admin) {
      throw .usage("the address \(twice) is given twice; each socket needs its own")
    }
    command = arguments.run
    rules = ViewRules(allowRelease: arguments.allowRelease, isReadOnce: arguments.readOnce)
    interests = try Self.parseInterests(arguments.keepOnly)
    pidFile = arguments.pidFile.map { AbsolutePath.of($0, in: currentDirectory) }
    logLevel = try Self.parseLogLevel(arguments.logLevel)
    maximumConnections = try Self.parseMaximumConnections(arguments.maximumConnections)
    journal = try Self.parseJournalOptions(arguments, currentDirectory)
    journal.adminAddress = admin[0].description
  }

  private static func parseDisks(_ texts: [String]) throws(ServiceError) -> [DiskSpecification] {
    var disks: [DiskSpecification] = []
    for text in texts {
      let disk = try DiskSpecification(parsing: text)
      guard !disks.contains(where: { $0.name == disk.name }) else {
        throw .usage("--disk \(text): the disk \(disk.name) is given twice")
      }
      disks.append(disk)
    }
    return disks
  }

  private static func parseSources(
    _ texts: [String], hasMonitor: Bool
  ) throws(ServiceError) -> [SourceSpecification] {
    var sources: [SourceSpecification] = []
    for text in texts {
      let source = try SourceSpecification(parsing: text)
      guard !sources.contains(where: { $0.disk == source.disk }) else {
        throw .usage("--source \(text): the disk \(source.disk) has a source already")
      }
      guard source.job == nil || hasMonitor else {
        throw .usage("--source \(text): a job takes --qmp PATH, the monitor to ask about it")
      }
      sources.append(source)
    }
    return sources
  }

  private static func parseInterests(_ texts: [String]) throws(ServiceError) -> [InterestSpecification] {
    var interests: [InterestSpecification] = []
    for text in texts {
      let interest = try InterestSpecification(parsing: text)
      guard !interests.contains(where: { $0.disk == interest.disk }) else {
        throw .usage("--keep-only \(text): what to keep of the disk \(interest.disk) is said already")
      }
      interests.append(interest)
    }
    return interests
  }

  private static func parseAddresses(
    _ texts: [String], option: String, unless path: String, _ currentDirectory: String
  ) throws(ServiceError) -> [ListenAddress] {
    guard !texts.isEmpty else { return [try ListenAddress.checkedUnix(path: path, option: option)] }
    var addresses: [ListenAddress] = []
    for text in texts {
      addresses.append(try ListenAddress(parsing: text, option: option, directory: currentDirectory))
    }
    return addresses
  }

  private static func firstDuplicate(_ addresses: [ListenAddress]) -> ListenAddress? {
    var seen: Set<ListenAddress> = []
    return addresses.first { address in
      if case .tcp(_, 0) = address { return false }  // each gets a port of its own
      return !seen.insert(address).inserted
    }
  }

  static func parseLogLevel(_ text: String?) throws(ServiceError) -> Logger.Level {
    switch text ?? "info" {
    case "debug": return .debug
    case "info": return .info
    case "warning": return .warning
    case "error": return .error
    default: throw .usage("--log-level \(text ?? ""): a level is debug, info, warning or error")
    }
  }

  private static func parseMaximumConnections(_ text: String?) throws(ServiceError) -> Int {
    guard let text else { return maximumConnectionsDefault }
    guard let count = Int(text), (1...1_000_000).contains(count) else {
      throw .usage("--max-connections \(text): a number from 1 to 1000000 is needed")
    }
    return count
  }

  private static func parseJournalOptions(
    _ arguments: ServeArguments, _ currentDirectory: String
  ) throws(ServiceError) -> JournalOptions {
    var options = JournalOptions()
    if let text = arguments.spoolDirectory {
      options.spoolDirectory = AbsolutePath.of(text, in: currentDirectory)
    }
    if let text = arguments.spoolSize {
      guard let byteCount = ByteCount.parse(text), byteCount >= spoolByteCountMin else {
        throw .usage("--spool-size \(text): a number of bytes from 16M upwards is needed, such as 256M or 1G")
      }
      options.spoolByteCount = byteCount
    }
    options.acceptLoss = arguments.acceptLoss
    if let text = arguments.unarrived {
      guard let unarrived = Unarrived(rawValue: text) else {
        throw .usage("--unarrived \(text): say wait, zeroes or error")
      }
      options.unarrived = unarrived
    }
    if let text = arguments.afterComplete {
      guard let afterComplete = AfterComplete(rawValue: text) else {
        throw .usage("--after-complete \(text): say zeroes or error")
      }
      options.afterComplete = afterComplete
    }
    if let text = arguments.whenFull {
      guard let whenFull = WhenFull(rawValue: text) else {
        throw .usage("--when-full \(text): say stall, enospc or taint")
      }
      options.whenFull = whenFull
    }
    if let text = arguments.stallBudget {
      guard let milliseconds = UInt64(text), milliseconds <= 86_400_000 else {
        throw .usage("--stall-budget \(text): a number of milliseconds is needed, at most a day's")
      }
      options.stallBudgetNanoseconds = milliseconds * 1_000_000
    }
    options.quota = try parseQuota(arguments.quota)
    options.keptGenerations = try parseKept(arguments.keep)
    options.history = try parseHistory(arguments.history)
    if let text = arguments.readTimeout {
      options.readTimeoutNanoseconds = try parseSeconds(text, option: "--read-timeout")
    }
    return options
  }

  /// What the journal may take on disk; nil: what there is.
  static func parseQuota(_ text: String?) throws(ServiceError) -> Quota? {
    guard let text else { return nil }
    guard let byteCount = ByteCount.parse(text), let quota = Quota(byteCount: byteCount) else {
      throw .usage("--quota \(text): a number of bytes from 64M upwards is needed, such as 10G")
    }
    return quota
  }

  /// How much of the past is kept.
  static func parseHistory(_ text: String?) throws(ServiceError) -> HistoryLimit {
    guard let text else { return .none }
    if text.hasSuffix("s") {
      let nanoseconds = try parseSeconds(String(text.dropLast()), option: "--history")
      return nanoseconds == 0 ? .none : .nanoseconds(nanoseconds)
    }
    guard let byteCount = ByteCount.parse(text) else {
      throw .usage("--history \(text): a number of bytes such as 10G is needed, or of seconds such as 3600s")
    }
    return byteCount == 0 ? .none : .bytes(byteCount)
  }

  /// How many sealed generations are kept; nil: all.
  static func parseKept(_ text: String?) throws(ServiceError) -> Int? {
    guard let text else { return nil }
    guard let count = Int(text), (1...1_000_000).contains(count) else {
      throw .usage("--keep \(text): a number of generations from 1 upwards is needed")
    }
    return count
  }

  /// Seconds with an optional fraction (`30`, `0.5`), in nanoseconds; at most a year and a bit.
  private static func parseSeconds(_ text: String, option: String) throws(ServiceError) -> UInt64 {
    let isPlain = text.utf8.allSatisfy { (48...57).contains($0) || $0 == UInt8(ascii: ".") }
    guard isPlain, let seconds = Double(text), seconds <= 40_000_000 else {
      throw .usage("\(option) \(text): a number of seconds is needed, such as 30 or 0.5 (0: no limit)")
    }
    // A limit that rounds down to nothing would mean none at all.
    return seconds == 0 ? 0 : max(1, UInt64(seconds * 1_000_000_000))
  }
}
