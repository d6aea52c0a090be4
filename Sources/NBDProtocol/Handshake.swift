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
  private var structuredReplies = false
  private var contexts = MetaContextSelection()
  private var optionCount = 0

  mutating func step(_ input: RawSpan, exports: ExportCatalog) -> ServerMachine.Step {
    switch phase {
    case .greeting:
      phase = .clientFlags
      return .init(consumed: 0, event: .send(Self.greeting))
    case .clientFlags: return takeClientFlags(input)
    case .option: return takeOption(input, exports: exports)
    case .skipping(let count, let reply): return skip(count, of: input, reply: reply)
    case .opening, .over: preconditionFailure("the shell has the turn")
    }
  }

  /// The shell has bound the export: the reply, and the state for the requests.
  mutating func accept() -> ([UInt8], Transmission) {
    guard case .opening(let opening) = phase else { preconditionFailure("nothing is being opened") }
    phase = .over
    let transmission = Transmission(
      export: opening.export, structuredReplies: structuredReplies,
      contexts: contexts.active(for: opening.requestedName))
    guard let infos = opening.infos else { return (exportNameReply(opening.export), transmission) }
    return (informationReply(OptionCode.go, opening.export, infos), transmission)
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
    guard Self.isKnown(option) else {
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
      return length > Limits.stringBytesMax ? "an export name of \(length) bytes" : nil
    }
    return clientFlags.contains(.fixedNewstyle) ? nil : "option \(option) without C_FIXED_NEWSTYLE"
  }

  private static func isKnown(_ option: UInt32) -> Bool {
    switch option {
    case OptionCode.exportName, OptionCode.abort, OptionCode.list, OptionCode.info, OptionCode.go,
      OptionCode.structuredReply, OptionCode.listMetaContext, OptionCode.setMetaContext:
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
      case OptionCode.structuredReply: return .send(try useStructuredReplies(data))
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
      guard let export = exports.find(name) else { throw .unknownExport }
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
    for export in exports.list() {
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
    guard let export = exports.find(name) else { throw .unknownExport }
    guard option == OptionCode.go else { return .send(informationReply(option, export, infos)) }
    phase = .opening(Opening(export: export, requestedName: name, infos: infos))
    return .open(export)
  }

  private mutating func useStructuredReplies(_ data: OptionData) throws(OptionFault) -> [UInt8] {
    try data.requireEnd()
    structuredReplies = true
    return OptionReply.ack(OptionCode.structuredReply)
  }

  private mutating func useContexts(
    _ option: UInt32, _ data: OptionData, exports: ExportCatalog
  ) throws(OptionFault) -> [UInt8] {
    if option == OptionCode.listMetaContext {
      let query = try MetaContextQuery(data)
      guard exports.find(query.exportName) != nil else { throw .unknownExport }
      return OptionReply.contexts(option, query.listed.map { ($0, 0) })
    }
    contexts.clear()
    guard structuredReplies else { throw OptionFault(ReplyCode.invalid, "structured replies come first") }
    let query = try MetaContextQuery(data)
    guard exports.find(query.exportName) != nil else { throw .unknownExport }
    contexts.select(query)
    return OptionReply.contexts(option, query.selected.map { ($0, $0.id) })
  }

  // MARK: - Replies

  private func flags(of export: ExportDescription) -> UInt16 {
    TransmissionFlags(for: export, structuredReplies: structuredReplies).rawValue
  }

  private func exportNameReply(_ export: ExportDescription) -> [UInt8] {
    var reply: [UInt8] = []
    reply.appendBigEndian(export.byteCount)
    reply.appendBigEndian(flags(of: export))
    if !clientFlags.contains(.noZeroes) { reply += [UInt8](repeating: 0, count: 124) }
    return reply
  }

  /// The answers to NBD_OPT_INFO and NBD_OPT_GO: EXPORT and BLOCK_SIZE always, NAME and DESCRIPTION on
  /// request.
  private func informationReply(_ option: UInt32, _ export: ExportDescription, _ asked: [UInt16]) -> [UInt8] {
    var reply: [UInt8] = []
    OptionReply.append(option, ReplyCode.info, to: &reply) { data in
      data.appendBigEndian(InfoCode.export)
      data.appendBigEndian(export.byteCount)
      data.appendBigEndian(flags(of: export))
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
