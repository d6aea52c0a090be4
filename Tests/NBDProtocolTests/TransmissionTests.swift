import Bytes
import NBDProtocol
import Testing

// Goal: a request is served exactly when it is inside the export, aligned, allowed and understood; else it
// gets the error that doc/proto.md names, and the next one is still understood. Method: a table of headers
// and verdicts; a FLUSH after each shows that the machine is in step.

@Suite("Judging requests")
struct TransmissionTests {
  private static let size: UInt64 = 1 << 20

  struct Case: Sendable {
    let type: UInt16
    var flags: UInt16 = 0
    var offset: UInt64 = 0
    var length: UInt32 = 512
    var export = "disk"
    var structured = true
    /// The error that is expected, or nil for service.
    let error: NBDError?
  }

  static let cases: [Case] = [
    // READ
    Case(type: 0, error: nil), Case(type: 0, flags: 1, error: nil), Case(type: 0, flags: 4, error: nil),
    Case(type: 0, flags: 4, structured: false, error: .invalid), Case(type: 0, flags: 2, error: .invalid),
    Case(type: 0, flags: 0x8000, error: .invalid), Case(type: 0, length: 0, error: .invalid),
    Case(type: 0, offset: size - 512, error: nil), Case(type: 0, offset: size - 511, error: .invalid),
    Case(type: 0, offset: size, length: 1, error: .invalid),
    Case(type: 0, offset: .max, length: .max, error: .invalid),
    Case(type: 0, offset: 3, length: 5, error: nil),
    Case(type: 0, offset: 3, length: 512, export: "view", error: .invalid),
    Case(type: 0, offset: 512, length: 5, export: "view", error: .invalid),
    Case(type: 0, length: 64 << 20, export: "big", error: nil),
    Case(type: 0, length: (64 << 20) + 1, export: "big", error: .overflow),
    // WRITE
    Case(type: 1, error: nil), Case(type: 1, flags: 1, error: nil), Case(type: 1, flags: 4, error: .invalid),
    Case(type: 1, offset: size - 511, error: .noSpace), Case(type: 1, offset: .max, error: .noSpace),
    Case(type: 1, export: "view", error: .notPermitted), Case(type: 1, length: 0, error: .invalid),
    // FLUSH
    Case(type: 3, length: 0, error: nil), Case(type: 3, flags: 1, length: 0, error: nil),
    Case(type: 3, length: 1, error: .invalid), Case(type: 3, length: 0, export: "view", error: nil),
    // TRIM
    Case(type: 4, length: 1 << 20, error: nil), Case(type: 4, offset: size, error: .invalid),
    Case(type: 4, export: "view", error: .notPermitted), Case(type: 4, flags: 2, error: .invalid),
    Case(type: 4, length: .max, export: "big", error: nil),
    // WRITE_ZEROES
    Case(type: 6, flags: 3, error: nil), Case(type: 6, offset: size, error: .noSpace),
    Case(type: 6, flags: 16, error: nil), Case(type: 6, flags: 32, error: .invalid),
    Case(type: 6, export: "view", error: .notPermitted), Case(type: 6, length: 0, error: .invalid),
    Case(type: 6, length: .max, export: "big", error: nil),
    // BLOCK_STATUS
    Case(type: 7, error: nil), Case(type: 7, flags: 8, error: nil), Case(type: 7, flags: 2, error: .invalid),
    Case(type: 7, offset: size, error: .invalid), Case(type: 7, structured: false, error: .invalid),
    // CACHE
    Case(type: 5, error: nil), Case(type: 5, flags: 1, export: "view", error: nil),
    Case(type: 5, flags: 2, error: .invalid), Case(type: 5, offset: size, error: .invalid),
    Case(type: 5, length: .max, export: "big", error: nil),
    // FUA on every command, PAYLOAD_LEN on none of the compact ones
    Case(type: 7, flags: 1, error: nil), Case(type: 0, flags: 32, error: .invalid),
    Case(type: 1, flags: 32, error: .invalid), Case(type: 3, flags: 32, length: 0, error: .invalid),
    // RESIZE, nonsense
    Case(type: 8, error: .invalid), Case(type: 999, error: .invalid),
  ]

  @Test("each header gets its verdict and the stream stays in step", arguments: cases)
  func verdict(_ given: Case) {
    var shell = Shell()
    shell.exports.append(
      ExportDescription(name: "big", text: "", byteCount: 1 << 40, isReadOnly: false, minimumBlock: 1))
    var stream = ClientStream.flags()
    if given.structured {
      stream.option(8)
      stream.contexts(10, given.export, ["base:allocation"])
    }
    stream.go(given.export)
    stream.request(
      given.type, flags: given.flags, cookie: 0xfeed, offset: given.offset, length: given.length,
      payload: given.type == 1 ? [UInt8](repeating: 1, count: Int(given.length)) : [])
    stream.request(3, cookie: 2)
    shell.run(stream.bytes)
    let events = shell.events
    #expect(events.last == .request(Request(RequestTag(cookie: 2), .flush)), "in step")
    switch events[events.count - 2] {
    case .request(let request): #expect(given.error == nil && request.tag.cookie == 0xfeed)
    case .refuse(let refusal): #expect(given.error == refusal.code && refusal.tag.cookie == 0xfeed)
    case let other: Issue.record("\(other)")
    }
  }

  @Test("flags reach the operation")
  func operations() {
    func operation(_ type: UInt16, _ flags: UInt16) -> Request.Operation? {
      var shell = Shell.transmitting(contexts: ["base:allocation"])
      var stream = ClientStream()
      stream.request(type, flags: flags, offset: 5, length: 10)
      shell.run(stream.bytes)
      guard case .request(let request) = shell.events.last else { return nil }
      return request.operation
    }
    let range = ByteRange(offset: 5, count: 10)
    #expect(operation(0, 0) == .read(range, inOneChunk: false))
    #expect(operation(0, 4) == .read(range, inOneChunk: true))
    #expect(operation(1, 1) == .write(range, durable: true))
    #expect(operation(4, 1) == .trim(range, durable: true))
    #expect(operation(6, 0) == .writeZeroes(range, mayTrim: true, durable: false))
    #expect(operation(6, 3) == .writeZeroes(range, mayTrim: false, durable: true))
    #expect(operation(6, 16) == .writeZeroes(range, mayTrim: true, durable: false), "all zeroes are fast")
    #expect(operation(5, 1) == .cache(range))
    #expect(operation(7, 8) == .blockStatus(range, contexts: [allocation], onlyOne: true))
  }

  @Test("a write beyond 64 MiB, or a request without its magic, ends the connection")
  func hangUps() {
    for build in [
      { $0.request(1, length: (64 << 20) + 1) }, { $0.bytes += [UInt8](repeating: 0, count: 28) },
    ] as [(inout ClientStream) -> Void] {
      var shell = Shell.transmitting()
      var stream = ClientStream()
      build(&stream)
      shell.run(stream.bytes)
      guard case .hangUp([], _) = shell.events.last else {
        Issue.record("not hung up")
        continue
      }
    }
  }

  @Test("a write that the shell gives up half way is passed over and refused")
  func givenUp() {
    var shell = Shell.transmitting()
    shell.refusedOffset = 64
    var stream = ClientStream()
    stream.request(1, cookie: 1, offset: 64, length: 100, payload: [UInt8](repeating: 0x25, count: 100))
    stream.request(3, cookie: 2)
    shell.run(stream.bytes)
    #expect(
      shell.events.suffix(2) == [
        .refuse(Refusal(RequestTag(cookie: 1, offset: 64), .noSpace, "full")),
        .request(Request(RequestTag(cookie: 2), .flush)),
      ])
  }
}
