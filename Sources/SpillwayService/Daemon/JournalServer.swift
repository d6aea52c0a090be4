internal import ExtentJournal
internal import Logging
internal import NBDServer

/// The NBD server of a journal: its sockets, and which exports are served where.
struct JournalServer {
  private let server: Server
  private let everything: JournalExports
  private let views: JournalExports

  /// A server of `journal` that listens nowhere yet. The disks `tlsOnly` are served to clients behind TLS only.
  init(
    _ journal: Journal, maximumConnections: Int, tls: TLSSettings? = nil, tlsOnly: Set<String> = [],
    rules: ViewRules, log: Logger
  ) {
    var options = ServerOptions()
    options.connectionsMax = maximumConnections
    options.tls = tls
    server = Server(options: options, log: log.forServer)
    let streams = Streams(log: log.forJournal)
    everything = JournalExports(
      journal: journal, showsIngest: true, streams: streams, rules: rules, tlsOnly: tlsOnly)
    views = JournalExports(
      journal: journal, showsIngest: false, streams: streams, rules: rules, tlsOnly: tlsOnly)
  }

  /// Serves the exports (`viewsOnly`: the views) at `address`, replacing the socket that a dead process left
  /// there. Returns the address with the port that was chosen if it was 0.
  func listen(on address: ListenAddress, viewsOnly: Bool) throws(ServiceError) -> ListenAddress {
    do throws(ServerError) {
      return try server.listen(on: address, directory: viewsOnly ? views : everything)
    } catch {
      throw .failed("cannot listen at \(error.description); choose another address")
    }
  }

  /// Serves all exports (`viewsOnly`: the views) on a socket that listens already at `address` and that somebody else
  /// keeps.
  func listen(
    inheriting descriptor: Int32, as address: ListenAddress, viewsOnly: Bool = false
  ) throws(ServiceError) {
    do throws(ServerError) {
      try server.listen(inheriting: descriptor, as: address, directory: viewsOnly ? views : everything)
    } catch {
      throw .failed("cannot serve \(error.description)")
    }
  }

  /// Accepts nobody any more, removes its sockets' paths, drops every connection and returns when their
  /// threads are gone.
  func stop() { server.stop() }
}
