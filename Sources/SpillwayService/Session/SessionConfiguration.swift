internal import Bytes
internal import ExtentJournal
internal import Glibc
internal import Logging

/// The options of `inspect` and `backup` as they were typed.
package struct SessionArguments: Sendable {
  /// `--qmp`.
  package var qmp: String?
  /// `--libvirt`.
  package var libvirt: String?
  /// `--disk`, in order.
  package var disks: [String] = []
  /// `-j`.
  package var journal: String?
  /// `--freeze`.
  package var freeze = false
  /// `--agent`: the guest agent's socket.
  package var agent: String?
  /// `--nbd-server`.
  package var nbdServer: String?
  /// `--incremental`.
  package var base: String?
  /// `--name`.
  package var name: String?
  /// `--speed`.
  package var speed: String?
  /// `--when-full`.
  package var whenFull: String?
  /// `--quota`.
  package var quota: String?
  /// `--keep`.
  package var keep: String?
  /// `--read-once`.
  package var readOnce = false
  /// `--stall-budget`, in milliseconds.
  package var stallBudget: String?
  /// `--monitor-timeout`, in seconds.
  package var monitorTimeout: String?
  /// `--log-level`.
  package var logLevel: String?
  /// COMMAND and its arguments.
  package var command: [String] = []

  /// As if nothing had been typed.
  package init() {}
}

/// What `inspect` or `backup` does, checked.
package struct SessionConfiguration: Sendable {
  var purpose: SessionPlan.Purpose
  var monitor: MonitorAddress
  /// Names in the journal and nodes in qemu, in order.
  var disks: [(name: String, node: String)]
  /// The journal directory; nil: a temporary one.
  var journal: JournalLocation?
  var freeze: Bool
  var agent: String?
  var nbdServer: String?
  var base: String?
  var generation: String
  var whenFull: WhenFull
  var stallBudgetMilliseconds: UInt64
  var quota: Quota?
  var keptGenerations: Int?
  var isReadOnce: Bool
  /// How long to wait for the monitor's greeting, in milliseconds.
  var monitorTimeoutMilliseconds: UInt64
  /// Bytes a second that each job of a backup may copy; 0 is as many as it can.
  var bytesPerSecond: Int64
  var logLevel: Logger.Level
  var command: [String]

  /// Checks `arguments`; relative paths are seen from `currentDirectory`.
  package init(
    _ purpose: SessionPlan.Purpose, _ arguments: SessionArguments, currentDirectory: String
  ) throws(ServiceError) {
    self.purpose = purpose
    switch (arguments.qmp, arguments.libvirt) {
    case (let path?, nil): monitor = .qmp(path: AbsolutePath.of(path, in: currentDirectory))
    case (nil, let domain?) where !domain.isEmpty && !domain.hasPrefix("-"):
      monitor = .libvirt(domain: domain)
    case (nil, _?): throw .usage("--libvirt needs the name of a domain")
    default: throw .usage("say which virtual machine: either --qmp PATH or --libvirt DOMAIN")
    }
    guard !arguments.disks.isEmpty else { throw .usage("say which disks: --disk [NAME=]NODE") }
    disks = []
    for text in arguments.disks {
      let disk = try Self.parseDisk(text)
      if let twice = disks.first(where: { $0.name == disk.name || $0.node == disk.node }) {
        throw .usage(
          "--disk \(text): \(twice.name == disk.name ? "the name \(disk.name)" : "the node \(disk.node)") is given twice"
        )
      }
      disks.append(disk)
    }
    journal = try arguments.journal.map { text throws(ServiceError) in
      try JournalLocation(parsing: text, currentDirectory: currentDirectory)
    }
    guard purpose == .inspect || journal != nil else { throw .usage("backup needs a journal: -j DIR") }
    freeze = arguments.freeze
    agent = arguments.agent.map { AbsolutePath.of($0, in: currentDirectory) }
    guard agent == nil || freeze else { throw .usage("--agent goes with --freeze") }
    nbdServer = arguments.nbdServer
    if let nbdServer, !nbdServer.contains("://") {
      throw .usage("--nbd-server \(nbdServer): an NBD URI is needed, such as nbd+unix:///?socket=PATH")
    }
    base = try arguments.base.map { text throws(ServiceError) in
      try DiskSpecification.checkedName(text, context: "--incremental \(text)")
    }
    let moment = Self.moment()
    generation =
      try arguments.name.map { text throws(ServiceError) in
        try DiskSpecification.checkedName(text, context: "--name \(text)")
      } ?? (purpose == .inspect ? "inspect-\(moment)" : moment)
    quota = try ServeConfiguration.parseQuota(arguments.quota)
    keptGenerations = try ServeConfiguration.parseKept(arguments.keep)
    isReadOnce = arguments.readOnce
    whenFull = try Self.parse(arguments.whenFull, "--when-full", "stall, enospc or taint") ?? .taint
    // A guest that waits longer for a write than this gives up its disk sooner or later. A backup fails when it is over, so
    // that it is worth waiting for a disk that is merely slow.
    stallBudgetMilliseconds = purpose == .inspect ? 1000 : 10_000
    if let text = arguments.stallBudget {
      guard let milliseconds = UInt64(text), milliseconds <= 86_400_000 else {
        throw .usage("--stall-budget \(text): a number of milliseconds is needed, at most a day's")
      }
      stallBudgetMilliseconds = milliseconds
    }
    monitorTimeoutMilliseconds = 30_000
    if let text = arguments.monitorTimeout {
      guard let seconds = Double(text), seconds > 0, seconds <= 86_400 else {
        throw .usage("--monitor-timeout \(text): a number of seconds above 0 is needed, at most a day's")
      }
      monitorTimeoutMilliseconds = UInt64((seconds * 1000).rounded(.up))
    }
    bytesPerSecond = try arguments.speed.map { text throws(ServiceError) in try Self.parseSpeed(text) } ?? 0
    logLevel = try ServeConfiguration.parseLogLevel(arguments.logLevel ?? "warning")
    command = arguments.command
  }

  private static func parse(
    _ text: String?, _ option: String, _ words: String
  ) throws(ServiceError) -> WhenFull? {
    guard let text else { return nil }
    guard let value = WhenFull(rawValue: text) else { throw .usage("\(option) \(text): say \(words)") }
    return value
  }

  private static func parseSpeed(_ text: String) throws(ServiceError) -> Int64 {
    guard let speed = ByteCount.parse(text).flatMap({ Int64(exactly: $0) }), speed > 0 else {
      throw .usage("--speed \(text): bytes a second are needed, such as 50M")
    }
    return speed
  }

  /// `[NAME=]NODE`. A node's own name cannot hold an equals sign.
  private static func parseDisk(_ text: String) throws(ServiceError) -> (name: String, node: String) {
    let parts = text.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
    guard let node = parts.last, !node.isEmpty else {
      throw .usage("--disk \(text): a disk is [NAME=]NODE, NODE being what qemu calls it")
    }
    if parts.count == 1 && node.hasPrefix("#") {
      throw .usage("--disk \(text): the node's name cannot name a disk; say --disk NAME=\(text)")
    }
    return (try DiskSpecification.checkedName(parts[0], context: "--disk \(text)"), node)
  }

  /// Now, in UTC, as a name: `20261125T231800Z`.
  private static func moment() -> String {
    var seconds = time(nil)
    var parts = unsafe tm()
    // SAFETY: gmtime_r reads the time and fills the structure during the call only.
    _ = unsafe gmtime_r(&seconds, &parts)
    func two(_ number: Int32) -> String { number < 10 ? "0\(number)" : "\(number)" }
    let date = unsafe "\(parts.tm_year + 1900)\(two(parts.tm_mon + 1))\(two(parts.tm_mday))"
    return unsafe date + "T\(two(parts.tm_hour))\(two(parts.tm_min))\(two(parts.tm_sec))Z"
  }
}
