package import Logging
package import QEMUMonitor
internal import Threads

/// The daemon's admin socket: one thread accepts, one thread serves each client, at most `clientCountMax`.
///
/// Ends in two steps, so that `shutdown` can be answered after the journal is closed: `stopAccepting` removes
/// the socket's path, `finish` lets the replies under way out and joins the threads.
package final class AdminServer: @unchecked Sendable {
  // Sendable: `clients`, `finished` and `nextClient` are guarded by `lock`; `acceptor` is set once by `start`
  // and read by `stopAccepting`, both called by the owner's thread.

  /// Carries out a command. Called from the clients' threads, several at once.
  package typealias Commands = @Sendable (AdminRequest) throws(ServiceError) -> JSONValue

  /// How many clients are served at once.
  package static let clientCountMax = 16
  /// How long a client may leave a reply unread, in seconds.
  package static let replySecondsMax = 5

  private let path: String
  private let listener: StreamSocket
  private let commands: Commands
  private let log: Logger
  private var acceptor: WorkerThread?

  private struct Client {
    var socket: StreamSocket
    var thread: WorkerThread?
  }
  private let lock = Lock()
  private var clients: [Int: Client] = [:]
  private var finished: [Int] = []
  private var nextClient = 0

  /// Binds the socket at `path`; nobody is served before `start`.
  package init(path: String, log: Logger, commands: @escaping Commands) throws(ServiceError) {
    self.path = path
    self.commands = commands
    self.log = log
    listener = try StreamSocket.listen(path: path, backlog: Int32(Self.clientCountMax))
  }

  /// Starts serving.
  package func start() throws(ServiceError) {
    acceptor = WorkerThread(name: "admin") { [self] in acceptClients() }
    guard acceptor != nil else {
      StreamSocket.remove(path)
      throw .failed("no thread is left for the admin socket; raise the limit of processes")
    }
  }

  /// No new client from here on; the path is gone and those who are connected go on.
  package func stopAccepting() {
    StreamSocket.remove(path)
    listener.shutdown()
    acceptor?.join()
    acceptor = nil
  }

  /// Lets the replies under way out and ends. Call it after `stopAccepting`.
  package func finish() {
    // Nobody adds clients any more, so what is here now is all there is.
    let last = lock.withLock {
      defer { clients = [:] }
      return clients.values
    }
    for client in last { client.socket.shutdownReading() }
    for client in last { client.thread?.join() }
  }

  private func acceptClients() {
    while let socket = listener.accept() {
      joinFinished()
      socket.limitWrites(toSeconds: Self.replySecondsMax)
      let number = lock.withLock { () -> Int? in
        guard clients.count < Self.clientCountMax else { return nil }
        nextClient += 1
        clients[nextClient] = Client(socket: socket, thread: nil)
        return nextClient
      }
      guard let number else {
        refuse(socket, "the daemon serves \(Self.clientCountMax) admin clients already; try again later")
        continue
      }
      let thread = WorkerThread(name: "admin-client") { [self] in
        serve(socket)
        lock.withLock { finished.append(number) }
      }
      lock.withLock { clients[number]?.thread = thread }
      if thread == nil {
        lock.withLock { clients[number] = nil }
        refuse(socket, "the daemon has no thread left to serve this client")
      }
    }
  }

  /// Joins the threads whose clients have gone. Only the accepting thread does, so each number is that of a
  /// thread which it has registered.
  private func joinFinished() {
    let gone = lock.withLock {
      let gone = finished.compactMap { clients.removeValue(forKey: $0) }
      finished = []
      return gone
    }
    for client in gone { client.thread?.join() }
  }

  private func refuse(_ socket: StreamSocket, _ message: String) {
    log.debug("\(message)")
    _ = write(AdminReply.failure(.failed(message), id: nil), to: socket)
  }

  private func serve(_ socket: StreamSocket) {
    defer { socket.shutdown() }
    guard write(AdminReply.greeting, to: socket) else { return }
    var lines = LineReader(socket)
    while true {
      switch lines.next() {
      case .end: return
      case .tooLong:
        let limit = ServiceError.usage("a line is longer than \(LineReader.byteCountMax) bytes")
        _ = write(AdminReply.failure(limit, id: nil), to: socket)
        return
      case .line(let line):
        guard write(answer(line), to: socket) else { return }
      }
    }
  }

  private func answer(_ line: [UInt8]) -> JSONValue {
    switch AdminRequest.parse(line) {
    case .failure(let refusal):
      return AdminReply.failure(.usage(refusal.message), id: refusal.id)
    case .success(let request):
      if request.command == "qmp_capabilities" {
        return AdminReply.success([:], id: request.id)
      }
      log.debug("admin: \(request.command)")
      do throws(ServiceError) {
        return AdminReply.success(try commands(request), id: request.id)
      } catch {
        return AdminReply.failure(error, id: request.id)
      }
    }
  }

  private func write(_ value: JSONValue, to socket: StreamSocket) -> Bool {
    do throws(ServiceError) {
      return socket.send(Array((try value.text() + "\n").utf8))
    } catch {
      log.error("\(error.message)")
      return false
    }
  }
}
