internal import Bytes

// The transmission phase: doc/proto.md, "Request message" (layouts in RequestHeader.swift).
//
// A refused request's payload is always passed over before the refusal is reported, so that the stream stays in
// step. The one exception is a payload beyond `Limits.payloadBytesMax`, which ends the connection.

/// The requests of one connection.
struct Transmission {
  private enum Payload {
    case none
    /// The shell is moving it.
    case expected(Int, RequestTag)
    case refused(Int, Refusal)
    /// What a BLOCK_STATUS chooses with: taken when it is there in full.
    case filter(Int, RequestHeader)
  }

  let replies: ReplyStyle
  private let judgement: Judgement
  private var payload = Payload.none

  init(export: ExportDescription, replies: ReplyStyle, contexts: [MetaContext]) {
    self.replies = replies
    judgement = Judgement(export: export, replies: replies, contexts: contexts)
  }

  mutating func step(_ input: RawSpan) -> ServerMachine.Step {
    switch payload {
    case .none: return takeHeader(input)
    case .refused(let count, let refusal): return skip(count, of: input, refusal)
    case .filter(let count, let header): return takeFilter(count, of: input, header)
    case .expected: preconditionFailure("the shell has the turn")
    }
  }

  var payloadRemaining: Int {
    if case .expected(let count, _) = payload { count } else { 0 }
  }

  mutating func tookPayload(_ byteCount: Int) {
    guard case .expected(let count, let tag) = payload, byteCount <= count else {
      preconditionFailure("more payload than there is")
    }
    payload = count == byteCount ? .none : .expected(count - byteCount, tag)
  }

  mutating func refusePayload(_ code: NBDError, _ message: String) {
    guard case .expected(let count, let tag) = payload else { preconditionFailure("no payload to refuse") }
    payload = .refused(count, Refusal(tag, code, message))
  }

  private mutating func skip(_ count: Int, of input: RawSpan, _ refusal: Refusal) -> ServerMachine.Step {
    let taken = min(count, input.byteCount)
    guard taken == count else {
      payload = .refused(count - taken, refusal)
      return .init(consumed: taken, event: .needsMore)
    }
    payload = .none
    return .init(consumed: taken, event: .refuse(refusal))
  }

  private mutating func takeHeader(_ input: RawSpan) -> ServerMachine.Step {
    let byteCount = RequestHeader.byteCount(extended: replies == .extended)
    // At once: a client that sends the shorter headers would else wait for ever for the answer to its first request.
    if input.byteCount >= 4, !RequestHeader.begins(input, extended: replies == .extended) {
      return .init(consumed: 4, event: .hangUp([], reason: "a request without its magic"))
    }
    guard input.byteCount >= byteCount else { return .init(consumed: 0, event: .needsMore) }
    let header = RequestHeader(input, extended: replies == .extended)
    return .init(consumed: byteCount, event: take(header))
  }

  private mutating func take(_ header: RequestHeader) -> ServerMachine.Event {
    let command = CommandCode(rawValue: header.type)
    if command == .disconnect { return .disconnect }
    let hasPayload = replies == .extended ? header.flags.contains(.payload) : command == .write
    guard !hasPayload || header.length <= Limits.payloadBytesMax else {
      return .hangUp(
        [], reason: "a payload of \(header.length) bytes, more than \(Limits.payloadBytesMax)")
    }
    if command == .blockStatus, hasPayload, header.length <= judgement.filterByteCountMax {
      payload = .filter(Int(header.length), header)
      return .proceed
    }
    do throws(RequestFault) {
      guard let command else { throw RequestFault(.invalid, "command \(header.type) is not supported") }
      if hasPayload, command != .write {
        throw RequestFault(.invalid, "a payload that does not belong there")
      }
      let operation = try judgement.operation(command, header)
      if hasPayload { payload = .expected(Int(header.length), header.tag) }
      return .request(Request(header.tag, operation))
    } catch {
      let refusal = Refusal(header.tag, error.code, error.message)
      guard hasPayload else { return .refuse(refusal) }
      payload = .refused(Int(header.length), refusal)
      return .proceed
    }
  }

  private mutating func takeFilter(
    _ count: Int, of input: RawSpan, _ header: RequestHeader
  ) -> ServerMachine.Step {
    guard input.byteCount >= count else { return .init(consumed: 0, event: .needsMore) }
    payload = .none
    do throws(RequestFault) {
      let operation = try judgement.operation(header, filter: input.extracting(0..<count))
      return .init(consumed: count, event: .request(Request(header.tag, operation)))
    } catch {
      return .init(consumed: count, event: .refuse(Refusal(header.tag, error.code, error.message)))
    }
  }
}
