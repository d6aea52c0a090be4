internal import ExtentJournal
internal import Glibc
internal import Logging
internal import NBDProtocol
internal import NBDServer
internal import Threads

/// `spillway serve`: a journal, its disks and the sockets, from the command line to the last file closed.
///
/// Start, in this order: signals blocked (before any thread) → journal → disks → admin socket bound → sources → NBD
/// sockets → pid file → the ready line → COMMAND → admin commands.
///
/// Stop: COMMAND → parked reads → reads of sources → NBD connections (dropped, never answered: qemu would fail the
/// guest's write) → the monitor → admin commands → journal closed → the answer to `ctl shutdown`. Paths of sockets go before the journal is let
/// go, for the next daemon may bind them then.
package final class Daemon {
  private let configuration: ServeConfiguration
  private let log: Logger
  private var activated: [ActivatedSockets.Socket] = []
  private var tls: TLSSettings?

  /// A daemon that has done nothing yet.
  package init(_ configuration: ServeConfiguration) {
    self.configuration = configuration
    log = StandardErrorLog.logger(level: configuration.logLevel)
  }

  /// Serves until a signal, the end of COMMAND or `ctl shutdown`. Returns what the process should exit with.
  /// Call it from the process's only thread.
  package func run() throws(ServiceError) -> Int32 {
    try requireSomethingToServe()
    TerminationSignals.block()
    // The variables are ours alone, and COMMAND is to see none of them.
    activated = try ActivatedSockets.take()
    tls = try configuration.tls?.load()
    let settings = ProcessSettings.tighten()
    warnAboutOpenFiles(settings)
    try configuration.directory.create()
    let journal = try reportingJournalErrors { () throws(JournalError) in
      try Journal.open(configuration.directory.path, options: configuration.journal, log: log.forJournal)
    }

    let stop = StopRequest()
    let interests = InterestSets(configuration.interests, log: log.forJournal)
    let commands = JournalCommands(journal, stop: stop) { disk throws(ServiceError) in
      try interests.apply(to: disk)
    }
    var admin: AdminServer?
    var outcome: Result<Int32, ServiceError>
    do throws(ServiceError) {
      try SessionResolution(journal, log).run(except: nil)
      let disks = try openDisks(of: journal)
      try interests.check(disks)
      try configuration.tls?.check(disks.map(\.name))
      try reportingJournalErrors { () throws(JournalError) in try journal.applyRetention() }
      for disk in disks { try interests.apply(to: disk) }
      let server = try AdminServer(path: configuration.adminPath, log: log) {
        request throws(ServiceError) in try commands.run(request)
      }
      admin = server
      outcome = .success(try serve(disks, of: journal, admin: server, settings: settings, stop: stop))
    } catch {
      outcome = .failure(error)
    }
    TerminationSignals.endAtOnceFromNowOn()
    admin?.stopAccepting()
    commands.close()
    journal.stopWaiting()
    interests.stop()
    do throws(JournalError) {
      try journal.close()
    } catch {
      // The first failure is the cause; what follows from it would only hide it.
      if case .success = outcome { outcome = .failure(ServiceError(error)) }
    }
    // What is left cannot be hurt by a signal, and the exit status should tell how the journal was closed.
    TerminationSignals.ignoreFromNowOn()
    if case .failure(let error) = outcome { stop.settle(error) } else { stop.settle(nil) }
    admin?.finish()
    let status = try outcome.get()
    log.info("stopped; the journal is closed")
    return status
  }

  private static let nothingToServe = ServiceError.usage(
    "there is no disk to serve; name one with --disk NAME=SIZE")

  /// Fails when there is neither a disk on the command line nor a journal that could have one, so that a typing
  /// error in the directory's path leaves no empty journal behind.
  private func requireSomethingToServe() throws(ServiceError) {
    guard configuration.disks.isEmpty else { return }
    guard configuration.directory.exists else { throw Self.nothingToServe }
    do throws(JournalError) {
      _ = try JournalReader.owner(of: configuration.directory.path)
    } catch {
      throw error.kind == .usage ? Self.nothingToServe : ServiceError(error)
    }
  }

  /// The disks to announce: those of the command line first, then the journal's others.
  private func openDisks(of journal: Journal) throws(ServiceError) -> [Disk] {
    var disks: [Disk] = []
    for wanted in configuration.disks {
      let disk = try reportingJournalErrors { () throws(JournalError) in
        try journal.disk(wanted.name, byteCount: wanted.byteCount, mode: wanted.mode)
      }
      disks.append(disk)
    }
    let named = Set(disks.map(\.name))
    disks += journal.disks.filter { !named.contains($0.name) }
    guard !disks.isEmpty else { throw Self.nothingToServe }
    return disks
  }

  /// From the first socket to the last connection dropped.
  private func serve(
    _ disks: [Disk], of journal: Journal, admin: AdminServer, settings: ProcessSettings, stop: StopRequest
  ) throws(ServiceError) -> Int32 {
    let sources = try DiskSources(
      configuration.sources, monitor: configuration.monitor, disks: disks, log: log.forJournal)
    let server = JournalServer(
      journal, maximumConnections: servedConnections(settings), tls: tls,
      tlsOnly: configuration.tls?.onlyDisks ?? [], rules: configuration.rules, log: log)
    defer {
      journal.stopWaiting()
      sources.interrupt()
      server.stop()
      sources.stop()
    }
    let listen = try listen(
      configuration.listen, unlessActivated: configuration.listenIsDefault, server, false)
    let view = try self.listen(configuration.view, unlessActivated: configuration.viewIsDefault, server, true)
    let pidFile = try configuration.pidFile.map { path throws(ServiceError) in try PIDFile(writingTo: path) }
    defer { pidFile?.remove() }

    let names = disks.map(\.name)
    let secured = names.filter { configuration.tls?.isRequired(for: $0) ?? false }
    let endpoints = Endpoints(listen: listen, view: view, disks: names, secured: Set(secured))
    StandardError.printLine(endpoints.readyLine)
    let command = try startCommand(endpoints, settings, stop)
    // After the start of COMMAND, so that no client's descriptor can slip into it; until here they queue.
    do throws(ServiceError) { try admin.start() } catch {
      command?.terminate()
      _ = command?.finish()
      throw error
    }
    announce(stop.wait())
    TerminationSignals.endAtOnceFromNowOn()
    command?.terminate()
    return command?.finish() ?? ExitStatus.done.rawValue
  }

  /// Serves the sockets that systemd gave us (of views, or of everything) and then `addresses`, which are not asked for if
  /// they are the default and there were such sockets. Returns where clients connect.
  private func listen(
    _ addresses: [ListenAddress], unlessActivated isDefault: Bool, _ server: JournalServer, _ viewsOnly: Bool
  ) throws(ServiceError) -> [ListenAddress] {
    var served: [ListenAddress] = []
    for socket in activated where socket.showsViewsOnly == viewsOnly {
      try server.listen(inheriting: socket.descriptor, as: socket.address, viewsOnly: viewsOnly)
      served.append(socket.address)
    }
    if isDefault, !served.isEmpty { return served }
    for address in addresses { served.append(try server.listen(on: address, viewsOnly: viewsOnly)) }
    return served
  }

  private func startCommand(
    _ endpoints: Endpoints, _ settings: ProcessSettings, _ stop: StopRequest
  ) throws(ServiceError) -> ChildProgram? {
    guard let command = configuration.command else { return nil }
    let shell = ChildProgram.Start.shell(settings.undone(before: command), variables: endpoints.variables)
    return try ChildProgram(shell, purpose: "the command of --run") {
      stop.post(.commandEnded)
    }
  }

  private func announce(_ reason: StopRequest.Reason) {
    switch reason {
    case .signal(let number):
      log.info("stopping on \(TerminationSignals.name(number)); another signal ends at once")
    case .commandEnded: log.debug("stopping, for the command of --run has ended")
    case .parentGone: preconditionFailure("a daemon has no parent")
    case .asked: log.info("stopping, as ctl shutdown asked")
    }
  }

  /// What the journal needs beside the connections: segments, index, ring, sockets.
  private static let descriptorsKept = 256

  /// How many connections are served. They never take the descriptors that the journal needs: one that cannot open a segment
  /// takes no more writes, and a crowd of clients would do that to all others.
  private func servedConnections(_ settings: ProcessSettings) -> Int {
    guard let openFiles = settings.openFiles else { return configuration.maximumConnections }
    let left = max(Int(openFiles) - Self.descriptorsKept, Int(openFiles) / 2)
    return min(configuration.maximumConnections, max(1, left))
  }

  private func warnAboutOpenFiles(_ settings: ProcessSettings) {
    let served = servedConnections(settings)
    if let openFiles = settings.openFiles, served < configuration.maximumConnections {
      let needed = configuration.maximumConnections + Self.descriptorsKept
      log.warning(
        "\(openFiles) open files are allowed and \(needed) may be needed: \(served) connections are served; raise the limit (ulimit -Hn)"
      )
    }
  }
}
