internal import NBDProtocol
internal import Glibc
internal import Threads

/// An NBD server: any number of listeners, one thread for each and one for every connection.
///
/// Its owner calls `stop` when done; until then the threads keep it alive.
package final class Server: @unchecked Sendable {
  // Sendable: everything mutable is guarded by `lock`.
  let options: ServerOptions
  let log: ServerLog
  let pool: PayloadPool
  let parkLimit: ParkLimit
  private let lock = Lock()
  private var listeners: [Listener] = []
  private var connections: [UInt64: (connection: Connection, thread: WorkerThread)] = [:]
  private var finished: [WorkerThread] = []
  private var nextNumber: UInt64 = 1
  private var isStopping = false

  /// A server that listens nowhere yet.
  package init(options: ServerOptions = ServerOptions(), log: @escaping ServerLog) {
    precondition(options.payloadBytesMax >= Int(Limits.payloadBytesMax), "the largest read must fit")
    self.options = options
    self.log = log
    pool = PayloadPool(bytesMax: options.payloadBytesMax)
    parkLimit = ParkLimit(options.parkedReadsMax)
  }

  /// Serves the exports of `directory` on `address`. Returns the address with the port that was chosen if it
  /// was
  /// 0. A unix socket gets mode 0600; a socket file that nobody listens on is taken over.
  package func listen(
    on address: ListenAddress, directory: any ExportDirectory
  ) throws(ServerError) -> ListenAddress {
    try serve(Listener(ListeningSockets(address), log: log), directory)
  }

  /// Serves the exports of `directory` on a socket that listens already at `address`; whoever bound it keeps it and its
  /// file. `descriptor` is this server's from now on.
  package func listen(
    inheriting descriptor: Int32, as address: ListenAddress, directory: any ExportDirectory
  ) throws(ServerError) {
    _ = try serve(Listener(ListeningSockets(inheriting: descriptor, as: address), log: log), directory)
  }

  private func serve(
    _ listener: Listener, _ directory: any ExportDirectory
  ) throws(ServerError) -> ListenAddress {
    try listener.start { [self] descriptor in accept(descriptor, directory, listener.address) }
    let isTooLate = lock.withLock { () -> Bool in
      if !isStopping { listeners.append(listener) }
      return isStopping
    }
    if isTooLate {
      listener.stop()
      throw ServerError("\(listener.address): the server is stopping")
    }
    return listener.address
  }

  /// How many connections are open and reads parked.
  package var counts: ServerCounts {
    ServerCounts(
      connectionsOpen: lock.withLock { connections.count }, readsParked: parkLimit.count)
  }

  /// Stops listening, drops every connection and waits for all threads. Requests in progress finish their
  /// call to the export, but nobody is answered any more: no client ever sees ESHUTDOWN. Calls that wait for
  /// room or for data must be released by the export's owner, before or meanwhile. Call it once.
  package func stop() {
    let listeners = lock.withLock { () -> [Listener] in
      isStopping = true
      defer { self.listeners = [] }
      return self.listeners
    }
    for listener in listeners { listener.stop() }
    while let thread = dropOne() { thread.join() }
  }

  /// Makes sure that no connection to the export `name` whose client has gone changes it from now on. Called
  /// before a new connection to it is answered.
  func retireGone(export name: String) {
    let others = lock.withLock { connections.values.map(\.connection) }
    for other in others { other.retireIfGone(export: name) }
  }

  /// Shuts every connection's socket down and returns a thread that has yet to be joined.
  private func dropOne() -> WorkerThread? {
    lock.withLock {
      for (connection, _) in connections.values { connection.socket.shutdown() }
      if let thread = finished.popLast() { return thread }
      guard let (number, (_, thread)) = connections.first else { return nil }
      connections[number] = nil
      return thread
    }
  }

  private func accept(_ descriptor: Int32, _ directory: any ExportDirectory, _ address: ListenAddress) {
    ListeningSockets.prepareAccepted(descriptor)
    let socket = Socket(owning: descriptor)
    let refusal = lock.withLock { () -> String? in
      if isStopping { return "the server is stopping" }
      if connections.count >= options.connectionsMax { return "\(connections.count) connections are open" }
      let number = nextNumber
      nextNumber += 1
      let connection = Connection(number: number, socket: socket, directory: directory, server: self)
      let thread = WorkerThread(name: "nbd-\(number)") { [self] in
        connection.run()
        didFinish(number)
      }
      guard let thread else { return "no thread left" }
      connections[number] = (connection, thread)
      return nil
    }
    if let refusal { log(.warning, "\(address): connection refused: \(refusal)") }
  }

  /// The last act of a connection's thread. Each joins those that finished before it, so that at most one
  /// waits to be joined at any time.
  private func didFinish(_ number: UInt64) {
    let earlier = lock.withLock { () -> [WorkerThread] in
      guard let (_, thread) = connections.removeValue(forKey: number) else { return [] }
      defer { finished = [thread] }
      return finished
    }
    for thread in earlier { thread.join() }
  }
}
