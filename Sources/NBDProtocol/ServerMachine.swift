/// The server's side of one NBD connection as a value: bytes in, events out. No socket, clock, lock or
/// thread.
///
/// The shell keeps what it has received in a buffer and calls `step` with all of it. It drops `consumed`
/// bytes, does what the event says and calls `step` again. What a stream means does not depend on how it was
/// cut up. Four events hand the turn to the shell: after `.open` it calls `accept` or `refuse`, after `.startTLS` it
/// drops everything it has received in the clear, makes the connection secure and calls `secured`, after a
/// `.request` for a write it moves the payload wherever it likes and says so with `tookPayload` (or gives the
/// rest up with `refusePayload`), after `.disconnect` and `.hangUp` it never calls `step` again.
package struct ServerMachine {
  /// What the shell has to do next.
  package enum Event: Equatable, Sendable {
    /// Nothing can be done with what is there: receive at least one byte more.
    case needsMore
    /// Nothing to do but to step again.
    case proceed
    /// Send these bytes.
    case send([UInt8])
    /// Send these bytes, then speak TLS.
    case startTLS([UInt8])
    /// Bind the connection to this export.
    case open(ExportDescription)
    /// Serve this request.
    case request(Request)
    /// Answer a request that cannot be served; its payload, if any, has gone by.
    case refuse(Refusal)
    /// NBD_CMD_DISC: the client is done.
    case disconnect
    /// Send these bytes (which may be none) and close. The reason is for the log.
    case hangUp([UInt8], reason: String)
  }

  /// One step's result.
  package struct Step: Equatable, Sendable {
    /// How many bytes of the input are dealt with.
    package var consumed: Int
    /// What to do after those bytes were dropped.
    package var event: Event

    /// A step that deals with `consumed` bytes; 0 is allowed.
    package init(consumed: Int, event: Event) {
      self.consumed = consumed
      self.event = event
    }
  }

  private var handshake: Handshake
  private var transmission: Transmission?

  /// A machine that is about to greet. Its connection keeps to `policy` from beginning to end.
  package init(tls policy: TLSPolicy = .off) { handshake = Handshake(policy: policy) }

  /// Looks at `input`, everything that is received and not consumed, and takes the next message from it.
  package mutating func step(_ input: RawSpan, exports: ExportCatalog) -> Step {
    if transmission != nil { return transmission!.step(input) }
    return handshake.step(input, exports: exports)
  }

  /// Whether requests are being exchanged (the negotiation is over).
  package var isTransmitting: Bool { transmission != nil }

  /// Answers `.open` with yes. Send the result; the next step expects a request.
  package mutating func accept() -> [UInt8] {
    let (reply, transmission) = handshake.accept()
    self.transmission = transmission
    return reply
  }

  /// Answers `.startTLS`: from here on the bytes are those inside of TLS.
  package mutating func secured() { handshake.secured() }

  /// Answers `.open` with no. Send the result, or hang up when it is nil (NBD_OPT_EXPORT_NAME has no other
  /// no).
  package mutating func refuse(_ code: NBDError, _ message: String) -> [UInt8]? {
    handshake.refuse(code, message)
  }

  /// How the replies of this connection are written. Only while transmitting.
  package var replies: ReplyEncoder {
    precondition(transmission != nil, "replies are a matter of the transmission phase")
    return ReplyEncoder(transmission!.replies)
  }

  /// How many bytes of the current write's payload are still to come.
  package var payloadRemaining: Int { transmission?.payloadRemaining ?? 0 }

  /// The shell has taken the next `byteCount` bytes of the payload out of the stream.
  package mutating func tookPayload(_ byteCount: Int) {
    precondition(transmission != nil, "no payload before the transmission phase")
    transmission!.tookPayload(byteCount)
  }

  /// The write whose payload is to come cannot be served: `step` passes over the rest, then refuses it.
  package mutating func refusePayload(_ code: NBDError, _ message: String) {
    precondition(transmission != nil, "no payload before the transmission phase")
    transmission!.refusePayload(code, message)
  }
}

/// How the machine finds exports while it negotiates.
package struct ExportCatalog {
  let find: (String) -> ExportDescription?
  let list: () -> [ExportDescription]

  /// A catalog of two questions: which export has this name, and which exports are there.
  package init(find: @escaping (String) -> ExportDescription?, list: @escaping () -> [ExportDescription]) {
    self.find = find
    self.list = list
  }
}
