internal import Bytes

// A request's header: doc/proto.md, "Compact request" and, on its branch extension-ext-header, "Extended request".
//
// compact                                          extended
// | at | size | what                               | at | size | what
// |  0 |   4  | 0x25609513                         |  0 |   4  | 0x21e41c71
// |  4 |   2  | command flags                      |  4 |   2  | command flags; bit 5 PAYLOAD_LEN
// |  6 |   2  | type                               |  6 |   2  | type
// |  8 |   8  | cookie                             |  8 |   8  | cookie
// | 16 |   8  | offset                             | 16 |   8  | offset
// | 24 |   4  | length                             | 24 |   8  | length of the payload or of the effect
// | 28 |   n  | payload: length, of a WRITE only   | 32 |   n  | payload: length, of all with PAYLOAD_LEN

/// The header of one request as it came.
struct RequestHeader {
  let flags: CommandFlags
  let type: UInt16
  let tag: RequestTag
  let length: UInt64

  /// How long the header is where headers are `extended`, and where not.
  static func byteCount(extended: Bool) -> Int { extended ? 32 : 28 }

  /// Whether `input`, of at least four bytes, begins with the magic of a header.
  static func begins(_ input: RawSpan, extended: Bool) -> Bool {
    input.bigEndian(at: 0, as: UInt32.self) == (extended ? Magic.extendedRequest : Magic.request)
  }

  /// The header that `input` begins with; all of it is there.
  init(_ input: RawSpan, extended: Bool) {
    precondition(Self.begins(input, extended: extended), "what is no header was taken for one")
    flags = CommandFlags(rawValue: input.bigEndian(at: 4))
    type = input.bigEndian(at: 6)
    tag = RequestTag(cookie: input.bigEndian(at: 8), offset: input.bigEndian(at: 16))
    length = extended ? input.bigEndian(at: 24) : UInt64(input.bigEndian(at: 24, as: UInt32.self))
  }
}

/// Why a request is refused.
struct RequestFault: Error {
  let code: NBDError
  let message: String

  init(_ code: NBDError, _ message: String) {
    self.code = code
    self.message = message
  }
}
