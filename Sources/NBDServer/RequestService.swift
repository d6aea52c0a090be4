internal import Bytes
internal import NBDProtocol
internal import Threads

/// Serves the requests of one connection: calls the session, sends the reply.
///
/// Reads run on the reader, the answerer and the waiting threads, flushes on the flusher, everything else on the reader thread only.
struct RequestService: Sendable {
  let connection: Connection
  let session: any ExportSession
  let replies: ReplyEncoder

  /// The most extents that a block status reply lists; a client asks again for the rest.
  private static let extentsMax = 8192
  /// The most pieces of a read that go as chunks of their own; beyond, the data goes as one.
  private static let chunksMax = 256
  /// From this many bytes on it takes longer to serve a read than to wake a thread for it.
  private static let sharedByteCountMin: UInt64 = 128 << 10

  /// Serves `request`; the payload of a write is taken from `input` and the socket.
  func serve(
    _ request: Request, _ machine: inout ServerMachine, _ input: inout InputBuffer
  ) throws(ConnectionEnd) {
    switch request.operation {
    case .read(let range, let inOneChunk):
      let read = ParkedRead(
        request.tag, range: range, inOneChunk: inOneChunk, since: MonotonicClock.nanoseconds())
      // With more requests waiting behind a large one, the answerer takes every other.
      let isShared = range.count >= Self.sharedByteCountMin && input.byteCount > 0
      if isShared, connection.handOver(read, self) { return }
      try self.read(read)
    case .write(let range, let durable):
      try write(request.tag, range, durable: durable, &machine, &input)
    case .writeZeroes(let range, let mayTrim, let durable):
      try change(request.tag, durable: durable) { () throws(ExportError) in
        try session.writeZeroes(range, mayTrim: mayTrim)
      }
    case .trim(let range, let durable):
      try change(request.tag, durable: durable) { () throws(ExportError) in try session.trim(range) }
    case .flush:
      try connection.answerWhenDurable(request.tag, self)
    case .cache(let range):
      session.cache(range)
      try succeed(request.tag)
    case .blockStatus(let range, let contexts, let onlyOne):
      // All contexts together have one bound, for they are one reply.
      let limit = onlyOne ? 1 : Self.extentsMax / max(1, contexts.count)
      try blockStatus(request.tag, range, contexts: contexts, limit: limit)
    }
  }

  /// Sends an error reply. ESHUTDOWN never goes out: qemu would hand it to the guest as a failed write, while
  /// a dropped connection makes it connect again.
  func fail(_ refusal: Refusal) throws(ConnectionEnd) {
    let client = "connection \(connection.number)"
    if refusal.code == .shutdown { throw .dropped(refusal.message) }
    connection.server.log(.info, "\(client): request refused (\(refusal.code)): \(refusal.message)")
    var header: [UInt8] = []
    replies.appendFailure(refusal, to: &header)
    try send(header)
  }

  // MARK: - Reads

  /// Serves a read that has just come in: answers it, or leaves it parked.
  private func read(_ read: ParkedRead) throws(ConnectionEnd) {
    var isCounted = false
    let outcome = try attempt(read, isRetry: false, mayBlock: false) {
      if !isCounted { connection.parked.count() }
      isCounted = true
      return connection.parked.waiter(for: read)
    } settled: {
      if isCounted { connection.parked.forget(read) }
    }
    switch outcome {
    case .answered: break
    case .parked: try connection.didPark(self)
    case .blocked:
      if !isCounted { connection.parked.count() }
      try connection.serveBlocking((read, isRetry: false), self)
      // Later it may park after all, and be woken.
      try connection.didPark(self)
    }
  }

  /// Serves a read that had to be taken from the reader. The body of the waiting threads.
  func answerBlocking(_ entry: BlockingReads.Entry) {
    let read = entry.read
    do throws(ConnectionEnd) {
      _ = try attempt(read, isRetry: entry.isRetry, mayBlock: true) {
        connection.parked.waiter(for: read)
      } settled: {
        connection.parked.forget(read)
      }
    } catch {
      connection.socket.shutdown()
    }
  }

  /// The body of the answerer thread: serves parked reads as they are woken, and others that it is handed.
  func answerParkedReads() {
    do throws(ConnectionEnd) {
      while let woken = connection.parked.takeReady() {
        for (read, reason) in woken { try answer(read, reason) }
      }
    } catch {
      // The reader thread finds the socket closed and ends the connection; until then nothing is answered.
      connection.socket.shutdown()
      while connection.parked.takeReady() != nil {}
    }
  }

  private func answer(_ read: ParkedRead, _ reason: ReadWake?) throws(ConnectionEnd) {
    switch reason {
    case .retry, nil:
      let isRetry = reason != nil
      let outcome = try attempt(read, isRetry: isRetry, mayBlock: false) {
        connection.parked.waiter(for: read)
      } settled: {
        connection.parked.forget(read)
      }
      if case .blocked = outcome { try connection.serveBlocking((read, isRetry: isRetry), self) }
    case .failed(let error):
      connection.parked.forget(read)
      try fail(Refusal(read.tag, error.code, error.message))
    }
  }

  private enum Attempt {
    case answered
    case parked
    case blocked
  }

  /// Reads (`isRetry`: after a wait), and replies if there is an answer; `settled` runs before.
  private func attempt(
    _ read: ParkedRead, isRetry: Bool, mayBlock: Bool, waiter: () -> ReadWaiter, settled: () -> Void
  ) throws(ConnectionEnd) -> Attempt {
    let pool = connection.server.pool
    let byteCount = Int(read.range.count)
    let buffer = mayBlock ? pool.takeSlow(byteCount) : pool.take(byteCount)
    defer { pool.give(buffer) }
    let outcome: ReadOutcome
    do throws(ExportError) {
      defer { if mayBlock { pool.endSlow(buffer) } }
      // SAFETY: this thread alone uses the buffer until it is given back, after the reply.
      let memory = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer.raw[..<Int(read.range.count)])
      var target = unsafe MutableRawSpan(_unsafeBytes: memory)
      outcome = try session.read(
        read.range, into: &target, since: read.since, isRetry: isRetry, mayBlock: mayBlock, waiter: waiter)
    } catch {
      settled()
      try fail(Refusal(read.tag, error.code, error.message))
      return .answered
    }
    switch outcome {
    case .parked: return .parked
    case .blocks: return .blocked
    case .served(let pieces):
      settled()
      try reply(to: read, pieces, buffer)
      session.didAnswerRead(read.range)
      return .answered
    }
  }

  private func reply(
    to read: ParkedRead, _ pieces: [ReadPiece], _ buffer: AlignedBuffer
  ) throws(ConnectionEnd) {
    var header: [UInt8] = []
    var parts: [ReplyChannel.Part] = []
    let isOneHole = pieces.count == 1 && pieces[0].isHole
    let isWhole = read.inOneChunk || pieces.count > Self.chunksMax
    if !replies.hasChunks || (isWhole && !isOneHole) {
      replies.appendWholeRead(read.range, read.tag, to: &header)
      parts = [.header(0..<header.count), .payload(0..<Int(read.range.count))]
    } else {
      for (index, piece) in pieces.enumerated() {
        let start = header.count
        let isLast = index == pieces.count - 1
        if piece.isHole {
          replies.appendHole(piece.range, read.tag, isLast: isLast, to: &header)
          parts.append(.header(start..<header.count))
        } else {
          let first = Int(piece.range.start - read.range.start)
          replies.appendData(piece.range, read.tag, isLast: isLast, to: &header)
          parts += [.header(start..<header.count), .payload(first..<first + Int(piece.range.count))]
        }
      }
    }
    do throws(SocketError) {
      try connection.channel.send(header, buffer, parts)
    } catch {
      throw .socket(error)
    }
  }

  // MARK: - Changes

  private func write(
    _ tag: RequestTag, _ range: ByteRange, durable: Bool, _ machine: inout ServerMachine,
    _ input: inout InputBuffer
  ) throws(ConnectionEnd) {
    let since = MonotonicClock.nanoseconds()
    let reservation: any WriteReservation
    do throws(ExportError) {
      reservation = try session.reserve(range)
    } catch {
      if error.code == .shutdown { throw .dropped(error.message) }
      return machine.refusePayload(error.code, error.message)
    }
    do throws(ConnectionEnd) {
      try receivePayload(of: reservation, &input)
    } catch {
      reservation.abandon()
      throw error
    }
    machine.tookPayload(machine.payloadRemaining)
    try change(tag, durable: durable, since: since) { () throws(ExportError) in
      try reservation.commit()
    } retired: {
      reservation.abandon()
    }
  }

  private func receivePayload(
    of reservation: any WriteReservation, _ input: inout InputBuffer
  ) throws(ConnectionEnd) {
    var progress = PayloadProgress()
    while true {
      do throws(SocketError) {
        // SAFETY: the reservation's memory is ours until commit or abandon, and asked for anew when it was late.
        if try unsafe input.fill(reservation.memory, &progress, from: connection.socket) { return }
      } catch {
        throw .socket(error)
      }
      do throws(ExportError) {
        try reservation.payloadIsLate(received: progress.received, since: progress.since)
      } catch {
        throw .dropped(error.message)
      }
    }
  }

  /// Makes a change unless the connection is retired, and replies; with `durable` the reply waits for a flush.
  private func change(
    _ tag: RequestTag, durable: Bool, since: UInt64? = nil, _ body: () throws(ExportError) -> AfterReply?,
    retired: () -> Void = {}
  ) throws(ConnectionEnd) {
    let since = since ?? MonotonicClock.nanoseconds()
    guard connection.gate.begin() else {
      retired()
      throw .dropped("its client has connected again")
    }
    let afterReply: AfterReply?
    do throws(ExportError) {
      afterReply = try body()
      connection.gate.end()
    } catch {
      connection.gate.end()
      return try fail(Refusal(tag, error.code, error.message))
    }
    // What a change entails is owed to other connections, whether or not this one still takes its reply.
    defer { afterReply?() }
    if durable { return try connection.answerWhenDurable(tag, self) }
    try succeed(tag)
    session.didAcknowledge(nanoseconds: MonotonicClock.nanoseconds() - since)
  }

  /// The body of the flusher thread: one flush for all the replies that wait for one.
  func answerDurable() {
    do throws(ConnectionEnd) {
      while let tags = connection.durable.take() { try flush(for: tags) }
    } catch {
      // The reader thread finds the socket closed and ends the connection.
      connection.durable.giveUp()
      connection.socket.shutdown()
    }
  }

  private func flush(for tags: [RequestTag]) throws(ConnectionEnd) {
    do throws(ExportError) {
      try session.flush()
    } catch {
      for tag in tags { try fail(Refusal(tag, error.code, error.message)) }
      return
    }
    var header: [UInt8] = []
    for tag in tags { replies.appendSuccess(tag, to: &header) }
    try send(header)
  }

  // MARK: - Block status

  private func blockStatus(
    _ tag: RequestTag, _ range: ByteRange, contexts: [MetaContext], limit: Int
  ) throws(ConnectionEnd) {
    var header: [UInt8] = []
    do throws(ExportError) {
      for (index, context) in contexts.enumerated() {
        let extents = try session.blockStatus(range, context: context.name, limit: limit)
        replies.appendBlockStatus(
          extents, context: context.id, tag, isLast: index == contexts.count - 1, to: &header)
      }
    } catch {
      return try fail(Refusal(tag, error.code, error.message))
    }
    // The client's own choice was empty.
    if contexts.isEmpty { replies.appendNone(tag, to: &header) }
    try send(header)
  }

  private func succeed(_ tag: RequestTag) throws(ConnectionEnd) {
    var header: [UInt8] = []
    replies.appendSuccess(tag, to: &header)
    try send(header)
  }

  private func send(_ header: [UInt8]) throws(ConnectionEnd) {
    do throws(SocketError) {
      try connection.channel.send(header)
    } catch {
      throw .socket(error)
    }
  }
}
