internal import Bytes
internal import ExtentJournal
internal import Logging
internal import QEMUMonitor

/// The commands that work on a journal which they do not serve. While a daemon serves it they go through it.
package struct JournalTools: Sendable {
  private let directory: JournalLocation
  let log: Logger

  /// Tools for the journal in `directory`. Of what the journal says they pass on warnings and errors.
  package init(_ directory: JournalLocation) {
    self.directory = directory
    log = StandardErrorLog.logger(level: .warning)
  }

  /// `spillway status`: the table, or with `asJSON` the `JournalStatus` as JSON with sorted members.
  package func status(asJSON: Bool) throws(ServiceError) -> String {
    let value = try statusValue()
    return try asJSON ? value.text(isPretty: true) + "\n" : statusTable(value)
  }

  /// What the journal says of itself: through the daemon, or as far as its files tell.
  func statusValue() throws(ServiceError) -> JSONValue {
    if let daemon = try connect() { return try daemon.execute("status") }
    let reader = try openReader()
    return try JSONValue(
      encoding: reportingJournalErrors { () throws(JournalError) in try reader.status() })
  }

  /// The table for people.
  func statusTable(_ value: JSONValue) throws(ServiceError) -> String {
    StatusText.render(try value.decoded(as: JournalStatus.self), directory: directory.path)
  }

  /// `spillway ctl`: has the daemon carry out `command`.
  package func control(
    _ command: String, _ arguments: [String: String] = [:]
  ) throws(ServiceError) {
    guard let daemon = try connect() else {
      throw .failed("no daemon serves \(directory.path); start one with spillway serve -j \(directory.path)")
    }
    _ = try daemon.execute(command, arguments.mapValues { .string($0) })
  }

  static func checkName(_ name: String, command: String) throws(ServiceError) {
    let parts = name.split(separator: "@", maxSplits: 1, omittingEmptySubsequences: false)
    for part in parts { _ = try DiskSpecification.checkedName(String(part), context: "\(command) \(name)") }
  }

  /// `spillway map`: what each run of `NAME`, `NAME@GENERATION` or `NAME@=SEQUENCE` is, in lines to `print`; `asPicture` as one picture.
  package func map(
    _ name: String, asJSON: Bool, asPicture: Bool, _ print: (String) -> Void
  ) throws(ServiceError) {
    let (reader, name) = try locate(name, at: nil, command: "map")
    let served = reader.isOfThePast ? nil : try connect()?.execute("status").decoded(as: JournalStatus.self)
    var runs: [MappedExtent] = []
    let byteCount = try reportingJournalErrors { () throws(JournalError) in
      try reader.forEachState(of: name, served: served) { run in
        if asPicture { runs.append(run) } else { print(asJSON ? MapText.json(run) : MapText.line(run)) }
      }
    }
    guard asPicture else { return }
    var picture = MapText.Picture(byteCount: byteCount)
    for run in runs { picture.add(run) }
    print(picture.text)
  }

  /// `spillway log`: every record, of one disk if `disk` names one, in lines to `print`.
  package func log(disk: String?, asJSON: Bool, _ print: (String) -> Void) throws(ServiceError) {
    if let disk { _ = try DiskSpecification.checkedName(disk, context: "log \(disk)") }
    let reader = try settledReader()
    if !asJSON { print(LogText.heading) }
    var failure: ServiceError?
    try reportingJournalErrors { () throws(JournalError) in
      try RecordLog.forEach(in: reader, disk: disk) { record in
        do throws(ServiceError) { print(asJSON ? try LogText.json(record) : LogText.line(record)) } catch {
          failure = failure ?? error
        }
      }
    }
    if let failure { throw failure }
  }

  /// `spillway verify`: whether everything that the index points to is there and is what was sealed.
  ///
  /// With `rebuildingIndex` the index is first built again from the segments, for which nobody may serve the journal.
  /// Returns what to print, as lines or `asJSON`, and whether all is well.
  package func verify(
    rebuildingIndex: Bool, asJSON: Bool
  ) throws(ServiceError) -> (text: String, isClean: Bool) {
    try directory.requireExistence()
    if rebuildingIndex {
      try reportingJournalErrors { () throws(JournalError) in
        try JournalReader.abandonIndex(of: directory.path)
      }
      try recover()
    }
    let reader = try settledReader()
    var progress = ProgressLine("verify")
    defer { progress.clear() }
    let report = try reportingJournalErrors { () throws(JournalError) in
      try Verification.run(on: reader) { progress.update(done: $0, total: $1) }
    }
    progress.clear()
    let text = try asJSON ? VerificationText.json(report) : VerificationText.render(report)
    return (text, report.flawCount == 0)
  }

  /// A reader that sees everything acknowledged before the call.
  func settledReader() throws(ServiceError) -> JournalReader {
    if let daemon = try connect() {
      _ = try daemon.execute("checkpoint")
      return try openReader()
    }
    // A journal that was closed cleanly is only read, so that it may lie on a read-only medium.
    let owner = try reportingJournalErrors { () throws(JournalError) in
      try JournalReader.owner(of: directory.path)
    }
    if owner.wasClosed { return try openReader() }
    try recover()
    return try openReader()
  }

  /// Opens the journal as its owner and closes it again: that brings what the spool holds into the segments.
  private func recover() throws(ServiceError) {
    try whileOpen { (_) throws(ServiceError) in }
  }

  /// Opens the journal as its owner, calls `body`, and closes it again.
  func whileOpen<Result>(
    _ body: (Journal) throws(ServiceError) -> Result
  ) throws(ServiceError) -> Result {
    var options = JournalOptions()
    options.spoolByteCount = ServeConfiguration.spoolByteCountMin
    options.history = .all
    let journal = try reportingJournalErrors { () throws(JournalError) in
      try Journal.open(directory.path, options: options, log: log.forJournal)
    }
    do throws(ServiceError) {
      let result = try body(journal)
      try reportingJournalErrors { () throws(JournalError) in try journal.close() }
      return result
    } catch {
      journal.abandon()
      throw error
    }
  }

  func openReader() throws(ServiceError) -> JournalReader {
    try reportingJournalErrors { () throws(JournalError) in
      try JournalReader.open(directory.path)
    }
  }

  /// The daemon that serves the journal; nil when nobody does.
  func connect() throws(ServiceError) -> AdminClient? {
    try directory.requireExistence()
    let owner = try reportingJournalErrors { () throws(JournalError) in
      try JournalReader.owner(of: directory.path)
    }
    guard owner.isServed else { return nil }
    guard let address = owner.adminAddress else {
      throw ServiceError(
        .inUse, "another process has \(directory.path) open and takes no commands; wait for it to end")
    }
    do throws(ServiceError) { return try connect(to: address) } catch {
      let what = "another process has \(directory.path) open and does not answer: \(error.message)"
      throw ServiceError(.inUse, "\(what); it may be starting or stopping, try again")
    }
  }

  /// The daemon at `address`; or at the usual place in the directory, for a daemon in a container may see it at
  /// another path than we do.
  private func connect(to address: String) throws(ServiceError) -> AdminClient {
    do throws(ServiceError) { return try AdminClient(address: address) } catch {
      let usual = directory.path(of: "admin.sock")
      guard address.hasSuffix("/admin.sock"), address != "unix:" + usual else { throw error }
      do throws(ServiceError) { return try AdminClient(address: "unix:" + usual) } catch _ { throw error }
    }
  }
}
