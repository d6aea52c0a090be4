internal import Bytes

// The transmission phase: doc/proto.md, "Request message".
//
// | at | size | what
// |  0 |   4  | 0x25609513
// |  4 |   2  | command flags
// |  6 |   2  | type
// |  8 |   8  | cookie
// | 16 |   8  | offset
// | 24 |   4  | length
// | 28 |   n  | payload: length bytes, of a WRITE only
//
// A refused WRITE's payload is always passed over before the refusal is reported, so that the stream stays in
// step. The one exception is a payload beyond `Limits.payloadBytesMax`, which ends the connection.

/// The requests of one connection.
struct Transmission {
  private enum Payload {
    case none
    /// The shell is moving it.
    case expected(Int, cookie: UInt64)
    case refused(Int, Refusal)
  }

  /// A request's header as it came.
  private struct Header {
    let flags: CommandFlags
    let cookie: UInt64
    let offset: UInt64
    let length: UInt64
  }

  private static let headerByteCount = 28

  let export: ExportDescription
  let structuredReplies: Bool
  private let contextIDs: [UInt32]
  private var payload = Payload.none

  init(export: ExportDescription, structuredReplies: Bool, contexts: [MetaContext]) {
    self.export = export
    self.structuredReplies = structuredReplies
    contextIDs = contexts.map(\.id)
  }

  mutating func step(_ input: RawSpan) -> ServerMachine.Step {
    switch payload {
    case .none: return takeHeader(input)
    case .refused(let count, let refusal): return skip(count, of: input, refusal)
    case .expected: preconditionFailure("the shell has the turn")
    }
  }

  var payloadRemaining: Int {
    if case .expected(let count, _) = payload { count } else { 0 }
  }

  mutating func tookPayload(_ byteCount: Int) {
    guard case .expected(let count, let cookie) = payload, byteCount <= count else {
      preconditionFailure("more payload than there is")
    }
    payload = count == byteCount ? .none : .expected(count - byteCount, cookie: cookie)
  }

  mutating func refusePayload(_ code: NBDError, _ message: String) {
    guard case .expected(let count, let cookie) = payload else { preconditionFailure("no payload to refuse") }
    payload = .refused(count, Refusal(cookie: cookie, code: code, message: message))
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
    guard input.byteCount >= Self.headerByteCount else { return .init(consumed: 0, event: .needsMore) }
    guard input.bigEndian(at: 0, as: UInt32.self) == Magic.request else {
      return hangUp("a request without its magic")
    }
    let header = Header(
      flags: CommandFlags(rawValue: input.bigEndian(at: 4)), cookie: input.bigEndian(at: 8),
      offset: input.bigEndian(at: 16), length: UInt64(input.bigEndian(at: 24, as: UInt32.self)))
    let code = input.bigEndian(at: 6, as: UInt16.self)
    guard let command = CommandCode(rawValue: code) else {
      return refuse(header, Fault(.invalid, "command \(code) is not supported"))
    }
    if command == .disconnect { return .init(consumed: Self.headerByteCount, event: .disconnect) }
    return command == .write ? takeWrite(header) : judge(command, header)
  }

  private mutating func takeWrite(_ header: Header) -> ServerMachine.Step {
    guard header.length <= Limits.payloadBytesMax else {
      return hangUp("a write of \(header.length) bytes, more than \(Limits.payloadBytesMax)")
    }
    let count = Int(header.length)
    do throws(Fault) {
      let operation = try operation(.write, header)
      payload = .expected(count, cookie: header.cookie)
      return .init(
        consumed: Self.headerByteCount,
        event: .request(Request(cookie: header.cookie, operation: operation)))
    } catch {
      payload = .refused(count, Refusal(cookie: header.cookie, code: error.code, message: error.message))
      return .init(consumed: Self.headerByteCount, event: .proceed)
    }
  }

  private func judge(_ command: CommandCode, _ header: Header) -> ServerMachine.Step {
    do throws(Fault) {
      let operation = try operation(command, header)
      return .init(
        consumed: Self.headerByteCount,
        event: .request(Request(cookie: header.cookie, operation: operation)))
    } catch {
      return refuse(header, error)
    }
  }

  private func refuse(_ header: Header, _ fault: Fault) -> ServerMachine.Step {
    let refusal = Refusal(cookie: header.cookie, code: fault.code, message: fault.message)
    return .init(consumed: Self.headerByteCount, event: .refuse(refusal))
  }

  private func hangUp(_ reason: String) -> ServerMachine.Step {
    .init(consumed: Self.headerByteCount, event: .hangUp([], reason: reason))
  }

  // MARK: - Judgement

  private struct Fault: Error {
    let code: NBDError
    let message: String

    init(_ code: NBDError, _ message: String) {
      self.code = code
      self.message = message
    }
  }

  /// What the request asks for, or why it is refused ("Request types", "Error values").
  private func operation(
    _ command: CommandCode, _ header: Header
  ) throws(Fault) -> Request.Operation {
    try requireFlags(header.flags, of: command)
    let durable = header.flags.contains(.fua)
    switch command {
    case .read:
      let range = try range(header, beyondEnd: .invalid)
      guard range.count <= Limits.payloadBytesMax else {
        throw Fault(.overflow, "a read of more than \(Limits.payloadBytesMax) bytes")
      }
      return .read(range, inOneChunk: header.flags.contains(.dontFragment))
    case .write:
      try requireWritable()
      return .write(try range(header, beyondEnd: .noSpace), durable: durable)
    case .writeZeroes:
      try requireWritable()
      let mayTrim = !header.flags.contains(.noHole)
      return .writeZeroes(try range(header, beyondEnd: .noSpace), mayTrim: mayTrim, durable: durable)
    case .trim:
      try requireWritable(byTrim: true)
      return .trim(try range(header, beyondEnd: .invalid), durable: durable)
    case .flush:
      guard header.offset == 0, header.length == 0 else { throw Fault(.invalid, "a flush has no range") }
      return .flush
    case .blockStatus:
      guard !contextIDs.isEmpty else { throw Fault(.invalid, "no metadata context was negotiated") }
      let range = try range(header, beyondEnd: .invalid)
      return .blockStatus(range, contexts: contextIDs, onlyOne: header.flags.contains(.onlyOne))
    case .disconnect:
      preconditionFailure("NBD_CMD_DISC is no operation")
    }
  }

  /// FUA is accepted everywhere, as doc/proto.md asks of a server that advertises it.
  private func requireFlags(_ flags: CommandFlags, of command: CommandCode) throws(Fault) {
    var allowed: CommandFlags = .fua
    switch command {
    case .read where structuredReplies: allowed.insert(.dontFragment)
    case .writeZeroes: allowed.insert(.noHole)
    case .blockStatus: allowed.insert(.onlyOne)
    default: break
    }
    guard flags.isSubset(of: allowed) else {
      throw Fault(.invalid, "command flags \(flags.rawValue) are not supported here")
    }
  }

  private func requireWritable(byTrim: Bool = false) throws(Fault) {
    if export.isReadOnly { throw Fault(.notPermitted, "the export is read-only") }
    if export.takesOnlyTrims, !byTrim { throw Fault(.notPermitted, "the export takes no change but TRIM") }
  }

  private func range(_ header: Header, beyondEnd: NBDError) throws(Fault) -> ByteRange {
    guard header.length > 0 else { throw Fault(.invalid, "a range of no bytes") }
    guard header.offset <= export.byteCount, header.length <= export.byteCount - header.offset else {
      throw Fault(beyondEnd, "the range reaches beyond the end of the export")
    }
    guard (header.offset | header.length) % UInt64(export.minimumBlock) == 0 else {
      throw Fault(.invalid, "the range is not a multiple of \(export.minimumBlock) bytes")
    }
    return ByteRange(offset: header.offset, count: header.length)
  }
}
