internal import Bytes

/// Judges requests of one connection by doc/proto.md, "Request types" and "Error values".
struct Judgement {
  let export: ExportDescription
  let replies: ReplyStyle
  let contexts: [MetaContext]

  /// What the request asks for, or why it is refused. It has no payload but that of a WRITE.
  func operation(
    _ command: CommandCode, _ header: RequestHeader
  ) throws(RequestFault) -> Request.Operation {
    try requireFlags(header.flags, of: command)
    let durable = header.flags.contains(.fua)
    switch command {
    case .read:
      let range = try range(header, beyondEnd: .invalid)
      guard range.count <= Limits.payloadBytesMax else {
        throw RequestFault(.overflow, "a read of more than \(Limits.payloadBytesMax) bytes")
      }
      return .read(range, inOneChunk: header.flags.contains(.dontFragment))
    case .write:
      try requireWritable()
      if replies == .extended, !header.flags.contains(.payload) {
        throw RequestFault(.invalid, "a write without NBD_CMD_FLAG_PAYLOAD_LEN")
      }
      return .write(try range(header, beyondEnd: .noSpace), durable: durable)
    case .writeZeroes:
      try requireWritable()
      // With NBD_CMD_FLAG_FAST_ZERO or without: zeroes are a record here, whatever they replace.
      let mayTrim = !header.flags.contains(.noHole)
      return .writeZeroes(try range(header, beyondEnd: .noSpace), mayTrim: mayTrim, durable: durable)
    case .trim:
      try requireWritable(byTrim: true)
      return .trim(try range(header, beyondEnd: .invalid), durable: durable)
    case .flush:
      guard header.tag.offset == 0, header.length == 0 else {
        throw RequestFault(.invalid, "a flush has no range")
      }
      return .flush
    case .cache: return .cache(try range(header, beyondEnd: .invalid))
    case .blockStatus:
      return try blockStatus(try range(header, beyondEnd: .invalid), contexts, header.flags)
    case .disconnect:
      preconditionFailure("NBD_CMD_DISC is no operation")
    }
  }

  /// How long the payload of a BLOCK_STATUS is at most: the length of the effect, and every context once.
  var filterByteCountMax: UInt64 { UInt64(8 + 4 * contexts.count) }

  /// A BLOCK_STATUS whose payload chooses among the contexts: the length of the effect (8 bytes), then ids (4 each).
  func operation(_ header: RequestHeader, filter: RawSpan) throws(RequestFault) -> Request.Operation {
    try requireFlags(header.flags.subtracting(.payload), of: .blockStatus)
    guard filter.byteCount >= 8, filter.byteCount % 4 == 0 else {
      throw RequestFault(.invalid, "a payload of \(filter.byteCount) bytes")
    }
    var chosen: [MetaContext] = []
    for offset in stride(from: 8, to: filter.byteCount, by: 4) {
      let id = filter.bigEndian(at: offset, as: UInt32.self)
      guard let context = contexts.first(where: { $0.id == id }), !chosen.contains(context) else {
        throw RequestFault(.invalid, "context \(id) was not negotiated, or is there twice")
      }
      chosen.append(context)
    }
    let range = try range(filter.bigEndian(at: 0), at: header.tag.offset, beyondEnd: .invalid)
    return try blockStatus(range, chosen, header.flags)
  }

  private func blockStatus(
    _ range: ByteRange, _ chosen: [MetaContext], _ flags: CommandFlags
  ) throws(RequestFault) -> Request.Operation {
    guard !contexts.isEmpty else { throw RequestFault(.invalid, "no metadata context was negotiated") }
    return .blockStatus(range, contexts: chosen, onlyOne: flags.contains(.onlyOne))
  }

  /// FUA is accepted everywhere, as doc/proto.md asks of a server that advertises it.
  private func requireFlags(_ flags: CommandFlags, of command: CommandCode) throws(RequestFault) {
    var allowed: CommandFlags = .fua
    switch command {
    case .read where replies != .simple: allowed.insert(.dontFragment)
    case .write where replies == .extended: allowed.insert(.payload)
    case .writeZeroes: allowed.formUnion([.noHole, .fastZero])
    case .blockStatus: allowed.insert(.onlyOne)
    default: break
    }
    guard flags.isSubset(of: allowed) else {
      throw RequestFault(.invalid, "command flags \(flags.rawValue) are not supported here")
    }
  }

  private func requireWritable(byTrim: Bool = false) throws(RequestFault) {
    if export.isReadOnly { throw RequestFault(.notPermitted, "the export is read-only") }
    if export.takesOnlyTrims, !byTrim {
      throw RequestFault(.notPermitted, "the export takes no change but TRIM")
    }
  }

  private func range(_ header: RequestHeader, beyondEnd: NBDError) throws(RequestFault) -> ByteRange {
    try range(header.length, at: header.tag.offset, beyondEnd: beyondEnd)
  }

  private func range(
    _ length: UInt64, at offset: UInt64, beyondEnd: NBDError
  ) throws(RequestFault) -> ByteRange {
    guard length > 0 else { throw RequestFault(.invalid, "a range of no bytes") }
    guard offset <= export.byteCount, length <= export.byteCount - offset else {
      throw RequestFault(beyondEnd, "the range reaches beyond the end of the export")
    }
    guard (offset | length) % UInt64(export.minimumBlock) == 0 else {
      throw RequestFault(.invalid, "the range is not a multiple of \(export.minimumBlock) bytes")
    }
    return ByteRange(offset: offset, count: length)
  }
}
