internal import Bytes

// The negotiation: doc/proto.md, "Fixed newstyle negotiation".
//
// greeting (server)                      client flags (client)
// | at | size | what                     | at | size | what
// |  0 |   8  | "NBDMAGIC"               |  0 |   4  | bit 0 C_FIXED_NEWSTYLE, bit 1 C_NO_ZEROES
// |  8 |   8  | "IHAVEOPT"
// | 16 |   2  | bit 0 FIXED_NEWSTYLE, bit 1 NO_ZEROES
//
// option (client)                        option reply (server)
// | at | size | what                     | at | size | what
// |  0 |   8  | "IHAVEOPT"               |  0 |   8  | 0x3e889045565a9
// |  8 |   4  | option                   |  8 |   4  | the option it answers
// | 12 |   4  | length n                 | 12 |   4  | reply type
// | 16 |   n  | data                     | 16 |   4  | length n
//                                        | 20 |   n  | data
//
// A client may lie about every length. Data is looked at only when it is there in full and no longer than
// `Limits.optionBytesMax`; anything longer is passed over, so that the stream stays in step without memory.

/// The negotiation of one connection, from the greeting to NBD_OPT_GO.
struct Handshake {
  private enum Phase {
    case greeting
    case clientFlags
    case option
    case skipping(Int, reply: [UInt8])
    case opening(Opening)
    /// NBD_OPT_STARTTLS was acknowledged: the shell makes the connection secure.
    case securing
    case over
  }

  /// An export the client has chosen; the shell has yet to bind it.
  private struct Opening {
    let export: ExportDescription
    let requestedName: String
    /// The information types asked for in NBD_OPT_GO, or nil for NBD_OPT_EXPORT_NAME.
    let infos: [UInt16]?
  }

  private var phase = Phase.greeting
  private var clientFlags: ClientFlags = []
  private let policy: TLSPolicy
  private var isSecure = false
  private var replies = ReplyStyle.simple
  private var contexts = MetaContextSelection()
  private var optionCount = 0

  init(policy: TLSPolicy) { self.policy = policy }

  mutating func step(_ input: RawSpan, exports: ExportCatalog) -> ServerMachine.Step {
    switch phase {
    case .greeting:
      phase = .clientFlags
      return .init(consumed: 0, event: .send(Self.greeting))
    case .clientFlags: return takeClientFlags(input)
    case .option: return takeOption(input, exports: exports)
    case .skipping(let count, let reply): return skip(count, of: input, reply: reply)
    case .opening, .securing, .over: preconditionFailure("the shell has the turn")
    }
  }

  /// The shell has made the connection secure. Whatever was agreed on before counts no more: it may have been said by
  /// somebody in between.
  mutating func secured() {
    guard case .securing = phase else { preconditionFailure("nobody asked for TLS") }
    isSecure = true
    (replies, contexts, phase) = (.simple, MetaContextSelection(), .option)
  }

  /// The shell has bound the export: the reply, and the state for the requests.
  mutating func accept() -> ([UInt8], Transmission) {
    guard case .opening(let opening) = phase else { preconditionFailure("nothing is being opened") }
    phase = .over
    let name = opening.requestedName
    let transmission = Transmission(
      export: opening.export, replies: replies, contexts: contexts.active(for: name))
    guard let infos = opening.infos else { return (exportNameReply(opening.export, as: name), transmission) }
    return (informationReply(OptionCode.go, opening.export, as: name, infos), transmission)
  }

  /// The shell could not bind the export: the error reply, or nil when the option has none.
  mutating func refuse(_ code: NBDError, _ message: String) -> [UInt8]? {
    guard case .opening(let opening) = phase else { preconditionFailure("nothing is being opened") }
    guard opening.infos != nil else {
      phase = .over
      return nil
    }
    phase = .option
    let type = code == .notPermitted ? ReplyCode.policy : ReplyCode.unknown
    return OptionReply.error(OptionCode.go, OptionFault(type, message))
  }

  // MARK: - Bytes in

  private static var greeting: [UInt8] {
    var bytes: [UInt8] = []
    bytes.appendBigEndian(Magic.greeting)
    bytes.appendBigEndian(Magic.option)
    bytes.appendBigEndian(UInt16(0b11))
    return bytes
  }

  private mutating func takeClientFlags(_ input: RawSpan) -> ServerMachine.Step {
    guard input.byteCount >= 4 else { return .init(consumed: 0, event: .needsMore) }
    clientFlags = ClientFlags(rawValue: input.bigEndian(at: 0))
    guard clientFlags.subtracting([.fixedNewstyle, .noZeroes]).isEmpty else {
      return hangUp(4, "unknown client flags \(clientFlags.rawValue)")
    }
    phase = .option
    return .init(consumed: 4, event: .proceed)
  }

  private mutating func takeOption(_ input: RawSpan, exports: ExportCatalog) -> ServerMachine.Step {
    guard input.byteCount >= 16 else { return .init(consumed: 0, event: .needsMore) }
    guard input.bigEndian(at: 0, as: UInt64.self) == Magic.option else {
      return hangUp(16, "an option without its magic")
    }
    let option = input.bigEndian(at: 8, as: UInt32.self)
    let length = Int(input.bigEndian(at: 12, as: UInt32.self))
    if let refusal = refusal(of: option, length: length) { return hangUp(16, refusal) }
    if needsTLS, option != OptionCode.startTLS, option != OptionCode.abort {
      return startSkipping(length, reply: OptionReply.error(option, .needsTLS))
    }
    guard isKnown(option) else {
      let fault = OptionFault(ReplyCode.unsupported, "option \(option) is not supported")
      return startSkipping(length, reply: OptionReply.error(option, fault))
    }
    guard length <= Limits.optionBytesMax else {
      if option == OptionCode.setMetaContext { contexts.clear() }
      let fault = OptionFault(ReplyCode.tooBig, "\(length) bytes of option data are too many")
      return startSkipping(length, reply: OptionReply.error(option, fault))
    }
    guard input.byteCount >= 16 + length else { return .init(consumed: 0, event: .needsMore) }
    optionCount += 1
    return .init(
      consumed: 16 + length,
      event: answer(option, OptionData(input, from: 16, byteCount: length), exports: exports))
  }

  /// Why a client that sends this option header is hung up on, if it is.
  private func refusal(of option: UInt32, length: Int) -> String? {
    if length > Limits.skippedBytesMax { return "\(length) bytes of option data" }
    if optionCount >= Limits.optionCountMax { return "more than \(Limits.optionCountMax) options" }
    if option == OptionCode.exportName {
      if needsTLS { return "NBD_OPT_EXPORT_NAME without TLS" }
      if replies == .extended { return "NBD_OPT_EXPORT_NAME after extended headers were agreed on" }
      return length > Limits.stringBytesMax ? "an export name of \(length) bytes" : nil
    }
    return clientFlags.contains(.fixedNewstyle) ? nil : "option \(option) without C_FIXED_NEWSTYLE"
  }

  /// Whether nothing is served before TLS, and there is none yet.
  private var needsTLS: Bool { policy == .require && !isSecure }

  private func isKnown(_ option: UInt32) -> Bool {
    switch option {
    case OptionCode.startTLS: policy != .off
    case OptionCode.exportName, OptionCode.abort, OptionCode.list, OptionCode.info, OptionCode.go,
      OptionCode.structuredReply, OptionCode.listMetaContext, OptionCode.setMetaContext,
      OptionCode.extendedHeaders:
      true
    default: false
    }
  }

  private mutating func startSkipping(_ length: Int, reply: [UInt8]) -> ServerMachine.Step {
    optionCount += 1
    phase = .skipping(length, reply: reply)
    return .init(consumed: 16, event: .proceed)
  }

  private mutating func skip(_ count: Int, of input: RawSpan, reply: [UInt8]) -> ServerMachine.Step {
    let taken = min(count, input.byteCount)
    guard taken == count else {
      phase = .skipping(count - taken, reply: reply)
      return .init(consumed: taken, event: .needsMore)
    }
    phase = .option
    return .init(consumed: taken, event: .send(reply))
  }

  private mutating func hangUp(_ consumed: Int, _ reason: String) -> ServerMachine.Step {
    phase = .over
    return .init(consumed: consumed, event: .hangUp([], reason: reason))
  }

  // MARK: - Options

  private mutating func answer(
    _ option: UInt32, _ data: OptionData, exports: ExportCatalog
  ) -> ServerMachine.Event {
    do throws(OptionFault) {
      switch option {
      case OptionCode.exportName: return openByName(data, exports: exports)
      case OptionCode.abort: return abort()
      case OptionCode.list: return .send(try list(data, exports: exports))
      case OptionCode.info, OptionCode.go: return try inform(option, data, exports: exports)
      case OptionCode.startTLS: return try startTLS(data)
      case OptionCode.structuredReply, OptionCode.extendedHeaders:
        return .send(try useReplies(option, data))
      default: return .send(try useContexts(option, data, exports: exports))
      }
    } catch {
      return .send(OptionReply.error(option, error))
    }
  }

  /// NBD_OPT_EXPORT_NAME: has no error reply, so that whatever is wrong ends the connection.
  private mutating func openByName(_ data: OptionData, exports: ExportCatalog) -> ServerMachine.Event {
    var data = data
    do throws(OptionFault) {
      let name = try data.takeString(byteCount: data.remaining)
      let export = try find(name, exports)
      phase = .opening(Opening(export: export, requestedName: name, infos: nil))
      return .open(export)
    } catch {
      phase = .over
      return .hangUp([], reason: "NBD_OPT_EXPORT_NAME: \(error.message)")
    }
  }

  private mutating func abort() -> ServerMachine.Event {
    phase = .over
    return .hangUp(OptionReply.ack(OptionCode.abort), reason: "NBD_OPT_ABORT")
  }

  private func list(_ data: OptionData, exports: ExportCatalog) throws(OptionFault) -> [UInt8] {
    try data.requireEnd()
    var reply: [UInt8] = []
    for export in exports.list() where isSecure || !export.requiresTLS {
      OptionReply.append(OptionCode.list, ReplyCode.server, to: &reply) { data in
        data.appendBigEndian(UInt32(export.name.utf8.count))
        data += export.name.utf8
        data += export.text.limited(to: Limits.stringBytesMax)
      }
    }
    return reply + OptionReply.ack(OptionCode.list)
  }

  private mutating func inform(
    _ option: UInt32, _ data: OptionData, exports: ExportCatalog
  ) throws(OptionFault) -> ServerMachine.Event {
    var data = data
    let name = try data.takeString(byteCount: Int(try data.take(UInt32.self)))
    var infos: [UInt16] = []
    for _ in 0..<(try data.take(UInt16.self)) { infos.append(try data.take()) }
    try data.requireEnd()
    let export = try find(name, exports)
    guard option == OptionCode.go else { return .send(informationReply(option, export, as: name, infos)) }
    phase = .opening(Opening(export: export, requestedName: name, infos: infos))
    return .open(export)
  }

  /// The export `name`, if this client may have it.
  private func find(_ name: String, _ exports: ExportCatalog) throws(OptionFault) -> ExportDescription {
    guard let export = exports.find(name) else { throw .unknownExport }
    if export.requiresTLS, !isSecure { throw .needsTLS }
    return export
  }

  private mutating func startTLS(_ data: OptionData) throws(OptionFault) -> ServerMachine.Event {
    try data.requireEnd()
    guard !isSecure else { throw OptionFault(ReplyCode.invalid, "the connection uses TLS already") }
    phase = .securing
    return .startTLS(OptionReply.ack(OptionCode.startTLS))
  }

  /// Extended headers are more than structured replies, and once agreed on they stay.
  private mutating func useReplies(_ option: UInt32, _ data: OptionData) throws(OptionFault) -> [UInt8] {
    try data.requireEnd()
    guard option != OptionCode.extendedHeaders else {
      replies = .extended
      return OptionReply.ack(option)
    }
    guard replies != .extended else {
      throw OptionFault(ReplyCode.extendedHeadersRequired, "extended headers were agreed on")
    }
    replies = .structured
    return OptionReply.ack(option)
  }

  private mutating func useContexts(
    _ option: UInt32, _ data: OptionData, exports: ExportCatalog
  ) throws(OptionFault) -> [UInt8] {
    if option == OptionCode.listMetaContext {
      let query = try MetaContextQuery(data)
      return OptionReply.contexts(option, query.listed(of: try find(query.exportName, exports).contexts))
    }
    contexts.clear()
    guard replies != .simple else {
      throw OptionFault(ReplyCode.invalid, "structured replies or extended headers come first")
    }
    let query = try MetaContextQuery(data)
    let selected = try query.selected(of: try find(query.exportName, exports).contexts)
    contexts.select(selected, of: query.exportName)
    return OptionReply.contexts(option, selected)
  }

  // MARK: - Replies

  /// The flags of `export`, which the client calls `name`.
  private func flags(of export: ExportDescription, as name: String) -> UInt16 {
    let hasContexts = !contexts.active(for: name).isEmpty
    return TransmissionFlags(for: export, replies: replies, hasContexts: hasContexts).rawValue
  }

  private func exportNameReply(_ export: ExportDescription, as name: String) -> [UInt8] {
    var reply: [UInt8] = []
    reply.appendBigEndian(export.byteCount)
    reply.appendBigEndian(flags(of: export, as: name))
    if !clientFlags.contains(.noZeroes) { reply += [UInt8](repeating: 0, count: 124) }
    return reply
  }

  /// The answers to NBD_OPT_INFO and NBD_OPT_GO: EXPORT and BLOCK_SIZE always, NAME and DESCRIPTION on
  /// request.
  private func informationReply(
    _ option: UInt32, _ export: ExportDescription, as name: String, _ asked: [UInt16]
  ) -> [UInt8] {
    var reply: [UInt8] = []
    OptionReply.append(option, ReplyCode.info, to: &reply) { data in
      data.appendBigEndian(InfoCode.export)
      data.appendBigEndian(export.byteCount)
      data.appendBigEndian(flags(of: export, as: name))
    }
    OptionReply.append(option, ReplyCode.info, to: &reply) { data in
      data.appendBigEndian(InfoCode.blockSize)
      data.appendBigEndian(export.minimumBlock)
      data.appendBigEndian(export.preferredBlock)
      data.appendBigEndian(export.maximumPayload)
    }
    for (code, text) in [(InfoCode.name, export.name), (InfoCode.description, export.text)]
    where asked.contains(code) {
      OptionReply.append(option, ReplyCode.info, to: &reply) { data in
        data.appendBigEndian(code)
        data += text.limited(to: Limits.stringBytesMax)
      }
    }
    return reply + OptionReply.ack(option)
  }
}
