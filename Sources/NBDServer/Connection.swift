internal import Bytes
internal import NBDProtocol
internal import Threads

// One client.
//
// reader thread    recv → machine → export call → reply            every request, in the order of arrival
// answerer thread  woken parked read → export call → reply         started by the first read that parks, and …
//                  every other large read of a queue                … by the first of those
// waiting threads  read that blocks → export call → reply          started as such reads come (BlockingReads)
// flusher thread   flush → replies that waited for it              started by the first FLUSH or FUA
//
// Requests are served where they arrive: handing a small request to another thread halves the throughput. A
// write's payload goes from the socket straight into the memory of its reservation. The session's calls that
// change the export are made by the reader thread alone, each behind the retire gate.

/// Why a connection ended.
enum ConnectionEnd: Error {
  /// NBD_CMD_DISC or NBD_OPT_ABORT.
  case done
  case socket(SocketError)
  /// The client broke the protocol, or asked for what can only be answered by hanging up.
  case hungUp(String)
  /// A successor has taken over, or the engine is shutting down.
  case dropped(String)
}

/// One client's connection, from accept to close.
final class Connection: @unchecked Sendable {
  // Sendable: `binding` is guarded by `lock`; the threads are the reader thread's alone.
  let number: UInt64
  let socket: Socket
  let channel: ReplyChannel
  let parked: ParkedReads
  let blocking: BlockingReads
  let durable = DurableReplies()
  let gate = RetireGate()
  let server: Server
  private let directory: any ExportDirectory
  private let lock = Lock()
  private var binding: ExportDescription?
  private var answerer: WorkerThread?
  private var flusher: WorkerThread?

  init(number: UInt64, socket: Socket, directory: any ExportDirectory, server: Server) {
    self.number = number
    self.socket = socket
    self.directory = directory
    self.server = server
    channel = ReplyChannel(socket, pool: server.pool)
    parked = ParkedReads(limit: server.parkLimit)
    blocking = BlockingReads(connection: number)
  }

  /// The body of the reader thread.
  func run() {
    var input = InputBuffer()
    var machine = ServerMachine(tls: server.options.tls?.policy ?? .off)
    do throws(ConnectionEnd) {
      guard let session = try negotiate(&machine, &input) else { return log(.done) }
      let end = serve(session, &machine, &input)
      close(session, end)
    } catch {
      socket.shutdown()
      log(error)
    }
  }

  /// If this connection writes to the export `name` and its client has gone: makes sure that it changes
  /// nothing any more.
  func retireIfGone(export name: String) {
    let isBound = lock.withLock { binding?.name == name && binding?.isReadOnly == false }
    guard isBound, socket.isGone else { return }
    gate.retire()
    server.log(.info, "connection \(number): its client has gone and \"\(name)\" has a new one; retired")
    gate.waitForEnd()
  }

  // MARK: - Negotiation

  private func negotiate(
    _ machine: inout ServerMachine, _ input: inout InputBuffer
  ) throws(ConnectionEnd) -> (any ExportSession)? {
    let deadline = MonotonicClock.nanoseconds() + server.options.handshakeNanoseconds
    let exports = ExportCatalog(find: directory.find, list: directory.list)
    while true {
      let step = machine.step(input.bytes, exports: exports)
      input.consume(step.consumed)
      switch step.event {
      case .needsMore: try receive(&input, before: deadline)
      case .proceed: continue
      case .send(let reply): try send(reply, before: deadline)
      case .open(let export):
        if let session = try open(export, &machine, before: deadline) { return session }
      case .hangUp(let reply, let reason):
        if reply.isEmpty { throw .hungUp(reason) }
        try send(reply, before: deadline)
        socket.finish()
        return nil
      case .startTLS(let reply): try secure(reply, &machine, input, before: deadline)
      case .request, .refuse, .disconnect: preconditionFailure("a request before the negotiation was over")
      }
    }
  }

  private func receive(_ input: inout InputBuffer, before deadline: UInt64) throws(ConnectionEnd) {
    do throws(SocketError) {
      repeat {
        let now = MonotonicClock.nanoseconds()
        if now >= deadline { throw .timedOut }
        try socket.waitReadable(nanoseconds: deadline - now)
        // Inside TLS there may be something to read, and still nothing for us.
      } while try !input.receiveSome(from: socket)
    } catch {
      throw .socket(error)
    }
  }

  /// The answer to NBD_OPT_STARTTLS, and the handshake that follows.
  private func secure(
    _ reply: [UInt8], _ machine: inout ServerMachine, _ input: borrowing InputBuffer, before deadline: UInt64
  ) throws(ConnectionEnd) {
    // A client waits for the answer. Who sent more may be somebody in between, who wants it taken for the client's.
    guard input.byteCount == 0 else { throw .hungUp("data in the clear behind NBD_OPT_STARTTLS") }
    guard let tls = server.options.tls else { preconditionFailure("the machine knows that TLS is off") }
    try send(reply, before: deadline)
    do throws(SocketError) { try socket.secure(tls.credentials, deadline: deadline) } catch {
      throw .socket(error)
    }
    machine.secured()
  }

  private func send(_ reply: [UInt8], before deadline: UInt64) throws(ConnectionEnd) {
    do throws(SocketError) {
      try channel.send(reply, deadline: deadline)
    } catch {
      throw .socket(error)
    }
  }

  private func open(
    _ export: ExportDescription, _ machine: inout ServerMachine, before deadline: UInt64
  ) throws(ConnectionEnd) -> (any ExportSession)? {
    if !export.isReadOnly && !export.takesOnlyTrims { server.retireGone(export: export.name) }
    let session: any ExportSession
    do throws(ExportError) {
      session = try directory.open(export.name)
    } catch {
      server.log(.warning, "connection \(number): \"\(export.name)\" refused: \(error.message)")
      guard let reply = machine.refuse(error.code, error.message) else { throw .hungUp(error.message) }
      try send(reply, before: deadline)
      return nil
    }
    lock.withLock { binding = export }
    do throws(ConnectionEnd) {
      try send(machine.accept(), before: deadline)
    } catch {
      session.close(cleanly: false)
      throw error
    }
    server.log(.debug, "connection \(number): serves \"\(export.name)\"")
    return session
  }

  // MARK: - Transmission

  private func serve(
    _ session: any ExportSession, _ machine: inout ServerMachine, _ input: inout InputBuffer
  ) -> ConnectionEnd {
    let service = RequestService(connection: self, session: session, replies: machine.replies)
    let nothing = ExportCatalog(find: { _ in nil }, list: { [] })
    do throws(ConnectionEnd) {
      while true {
        let step = machine.step(input.bytes, exports: nothing)
        input.consume(step.consumed)
        switch step.event {
        case .needsMore: try receive(&input)
        case .proceed: continue
        case .request(let request): try service.serve(request, &machine, &input)
        case .refuse(let refusal): try service.fail(refusal)
        case .disconnect: throw .done
        case .hangUp(_, let reason): throw .hungUp(reason)
        case .send, .open, .startTLS: preconditionFailure("an option after the negotiation was over")
        }
      }
    } catch {
      return error
    }
  }

  private func receive(_ input: inout InputBuffer) throws(ConnectionEnd) {
    do throws(SocketError) {
      try input.receive(from: socket)
    } catch {
      throw .socket(error)
    }
  }

  /// Makes sure that there is a thread for the answers to parked reads, and that there are not too many of
  /// them. Reader thread only, after a read has parked.
  func didPark(_ service: RequestService) throws(ConnectionEnd) {
    guard startAnswerer(service) else { throw .dropped("no thread left to answer parked reads") }
    server.parkLimit.waitForRoom { socket.isGone }
  }

  /// Has a read that has just come in served by the answerer. False when it has something to do already, or there is no
  /// thread for it. Reader thread only.
  func handOver(_ read: ParkedRead, _ service: RequestService) -> Bool {
    startAnswerer(service) && parked.handOver(read)
  }

  private func startAnswerer(_ service: RequestService) -> Bool {
    if answerer == nil {
      answerer = WorkerThread(name: "nbd-answer-\(number)") { service.answerParkedReads() }
    }
    return answerer != nil
  }

  /// Has a read served by a thread that may wait. It counts as parked. Any thread.
  func serveBlocking(_ entry: BlockingReads.Entry, _ service: RequestService) throws(ConnectionEnd) {
    guard blocking.add(entry, service.answerBlocking) else {
      throw .dropped("no thread left for reads that wait")
    }
  }

  /// Has the request `tag` answered when everything acknowledged up to now, and what it changed, survives power loss.
  /// Reader thread only, which goes on meanwhile: a queue of such requests shares its flushes.
  func answerWhenDurable(_ tag: RequestTag, _ service: RequestService) throws(ConnectionEnd) {
    if flusher == nil {
      flusher = WorkerThread(name: "nbd-flush-\(number)") { service.answerDurable() }
      if flusher == nil { throw .dropped("no thread left to flush") }
    }
    durable.add(tag)
  }

  /// After NBD_CMD_DISC what was flushed for is still answered, as the protocol asks for.
  /// A parked read may wait for ever, so that none is waited for, not even after NBD_CMD_DISC. Reads that are inside the
  /// export are: the client is told at once, the session is closed when the last has returned.
  private func close(_ session: any ExportSession, _ end: ConnectionEnd) {
    var isClean = false
    if case .done = end { isClean = true }
    if isClean { parked.waitForHandedOver() }
    parked.end()
    blocking.end()
    durable.end(dropping: !isClean)
    if isClean { flusher?.join() }
    if isClean { socket.finish() } else { socket.shutdown() }
    if !isClean { flusher?.join() }
    answerer?.join()
    blocking.join()
    session.close(cleanly: isClean)
    log(end)
  }

  private func log(_ end: ConnectionEnd) {
    let client = "connection \(number)"
    switch end {
    case .done: server.log(.debug, "\(client): done")
    // Readers such as guestfish leave without a word when they have seen enough: nothing is wrong.
    case .socket(let error) where error.isPeerGone: server.log(.debug, "\(client): \(error.text)")
    case .socket(let error): server.log(.warning, "\(client): \(error.text)")
    case .hungUp(let reason): server.log(.warning, "\(client): hung up: \(reason)")
    case .dropped(let reason): server.log(.warning, "\(client): dropped: \(reason)")
    }
  }
}
