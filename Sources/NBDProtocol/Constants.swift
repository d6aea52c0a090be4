// The numbers of the NBD protocol that this server speaks, under the names of doc/proto.md in the NBD
// project.

/// Magic numbers ("Values", and the message layouts of each section of doc/proto.md).
enum Magic {
  /// "NBDMAGIC": the first eight bytes of the greeting.
  static let greeting: UInt64 = 0x4e42_444d_4147_4943
  /// "IHAVEOPT": the second eight bytes of the greeting, and the start of every option.
  static let option: UInt64 = 0x4948_4156_454f_5054
  /// The start of every option reply.
  static let optionReply: UInt64 = 0x0003_e889_0455_65a9
  /// The start of a compact request.
  static let request: UInt32 = 0x2560_9513
  /// The start of a simple reply.
  static let simpleReply: UInt32 = 0x6744_6698
  /// The start of a structured reply chunk.
  static let structuredReply: UInt32 = 0x668e_33ef
  /// The start of an extended request.
  static let extendedRequest: UInt32 = 0x21e4_1c71
  /// The start of an extended reply chunk.
  static let extendedReply: UInt32 = 0x6e8a_278c
}

/// Limits of this server, in bytes.
package enum Limits {
  /// The longest string that doc/proto.md allows ("Values": strings).
  package static let stringBytesMax = 4096
  /// The longest option data that is looked at. Longer data is skipped and answered ERR_TOO_BIG.
  package static let optionBytesMax = 32 << 10
  /// The longest option data that is skipped; whoever announces more is hung up on.
  package static let skippedBytesMax = 32 << 20
  /// How many options a client may send before it is hung up on.
  package static let optionCountMax = 4096
  /// The largest payload of a READ or WRITE that is served, whatever was advertised.
  package static let payloadBytesMax: UInt64 = 64 << 20
  /// How many metadata contexts a client may select.
  package static let contextsMax = 64
  /// The longest text sent with an error.
  package static let messageBytesMax = 1024
  /// What the shell must be able to buffer: no step ever needs more at once.
  package static let inputBytesMin = 16 + optionBytesMax
}

/// Client flags ("Newstyle negotiation").
struct ClientFlags: OptionSet {
  let rawValue: UInt32
  static let fixedNewstyle = ClientFlags(rawValue: 1 << 0)
  static let noZeroes = ClientFlags(rawValue: 1 << 1)
}

/// Options that are known by name ("Option types"); every other number gets ERR_UNSUP.
enum OptionCode {
  static let exportName: UInt32 = 1
  static let abort: UInt32 = 2
  static let list: UInt32 = 3
  static let startTLS: UInt32 = 5
  static let info: UInt32 = 6
  static let go: UInt32 = 7
  static let structuredReply: UInt32 = 8
  static let listMetaContext: UInt32 = 9
  static let setMetaContext: UInt32 = 10
  static let extendedHeaders: UInt32 = 11
}

/// Option reply types ("Option reply types").
enum ReplyCode {
  static let ack: UInt32 = 1
  static let server: UInt32 = 2
  static let info: UInt32 = 3
  static let metaContext: UInt32 = 4
  static let unsupported: UInt32 = 1 << 31 | 1
  static let policy: UInt32 = 1 << 31 | 2
  static let invalid: UInt32 = 1 << 31 | 3
  static let tlsRequired: UInt32 = 1 << 31 | 5
  static let unknown: UInt32 = 1 << 31 | 6
  static let tooBig: UInt32 = 1 << 31 | 9
  static let extendedHeadersRequired: UInt32 = 1 << 31 | 10
}

/// Information types of NBD_OPT_INFO and NBD_OPT_GO.
enum InfoCode {
  static let export: UInt16 = 0
  static let name: UInt16 = 1
  static let description: UInt16 = 2
  static let blockSize: UInt16 = 3
}

/// Transmission flags ("Transmission flags"): what an export can do.
struct TransmissionFlags: OptionSet, Sendable {
  let rawValue: UInt16
  init(rawValue: UInt16) { self.rawValue = rawValue }

  static let hasFlags = TransmissionFlags(rawValue: 1 << 0)
  static let readOnly = TransmissionFlags(rawValue: 1 << 1)
  static let flush = TransmissionFlags(rawValue: 1 << 2)
  static let fua = TransmissionFlags(rawValue: 1 << 3)
  static let trim = TransmissionFlags(rawValue: 1 << 5)
  static let writeZeroes = TransmissionFlags(rawValue: 1 << 6)
  static let dontFragment = TransmissionFlags(rawValue: 1 << 7)
  static let multiConnection = TransmissionFlags(rawValue: 1 << 8)
  static let cache = TransmissionFlags(rawValue: 1 << 10)
  static let fastZero = TransmissionFlags(rawValue: 1 << 11)
  static let blockStatusPayload = TransmissionFlags(rawValue: 1 << 12)

  /// What `export` offers a client that agreed on `replies` and has `hasContexts`: DF goes with chunks and never
  /// without, the payload of BLOCK_STATUS with extended headers and something to choose from.
  init(for export: ExportDescription, replies: ReplyStyle, hasContexts: Bool) {
    self = [.hasFlags, .flush, .fua, .multiConnection, .cache]
    if export.isReadOnly { insert(.readOnly) } else { insert(.trim) }
    if !export.isReadOnly && !export.takesOnlyTrims { formUnion([.writeZeroes, .fastZero]) }
    if replies != .simple { insert(.dontFragment) }
    if replies == .extended, hasContexts { insert(.blockStatusPayload) }
  }
}

/// Command flags ("Command flags"). What is not here is refused with EINVAL.
struct CommandFlags: OptionSet {
  let rawValue: UInt16
  static let fua = CommandFlags(rawValue: 1 << 0)
  static let noHole = CommandFlags(rawValue: 1 << 1)
  static let dontFragment = CommandFlags(rawValue: 1 << 2)
  static let onlyOne = CommandFlags(rawValue: 1 << 3)
  static let fastZero = CommandFlags(rawValue: 1 << 4)
  static let payload = CommandFlags(rawValue: 1 << 5)
}

/// Request types that are served ("Request types").
enum CommandCode: UInt16 {
  case read = 0
  case write = 1
  case disconnect = 2
  case flush = 3
  case trim = 4
  case cache = 5
  case writeZeroes = 6
  case blockStatus = 7
}

/// Structured reply types ("Structured reply types").
enum ChunkCode {
  static let none: UInt16 = 0
  static let offsetData: UInt16 = 1
  static let offsetHole: UInt16 = 2
  static let blockStatus: UInt16 = 5
  static let blockStatusExtended: UInt16 = 6
  static let error: UInt16 = 1 << 15 | 1
  static let errorOffset: UInt16 = 1 << 15 | 2
}
