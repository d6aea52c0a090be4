import Bytes
import NBDProtocol
import Testing

// Goal: extended headers are negotiated and used as doc/proto.md's branch extension-ext-header asks: lengths of 64
// bits, payloads only where they belong, and a stream that stays in step where they do not.
// Method: literal bytes; a FLUSH after each request shows that the machine is in step.

@Suite("Extended headers")
struct ExtendedHeadersTests {
  private func negotiate(_ build: (inout ClientStream) -> Void) -> Shell {
    var stream = ClientStream.flags()
    build(&stream)
    var shell = Shell()
    shell.run(stream.bytes)
    return shell
  }

  /// What one request came to.
  private func verdict(_ contexts: [String] = [], _ build: (inout ClientStream) -> Void)
    -> ServerMachine.Event
  {
    var shell = Shell()
    shell.exports.append(
      ExportDescription(
        name: "big", text: "", byteCount: 1 << 44, isReadOnly: false, minimumBlock: 1,
        contexts: ["base:allocation", "x-spillway:state", "qemu:dirty-bitmap:a"]))
    var stream = ClientStream.flags()
    stream.option(11)
    if !contexts.isEmpty { stream.contexts(10, "big", contexts) }
    stream.go("big")
    build(&stream)
    stream.extended(3, cookie: 99)
    shell.run(stream.bytes)
    #expect(shell.events.last == .request(Request(RequestTag(cookie: 99), .flush)), "in step")
    return shell.events[shell.events.count - 2]
  }

  private func error(_ event: ServerMachine.Event) -> NBDError? {
    if case .refuse(let refusal) = event { refusal.code } else { nil }
  }

  @Test("EXTENDED_HEADERS is acknowledged without structured replies, and again; those are refused after it")
  func option() {
    let shell = negotiate { stream in
      stream.option(11)
      stream.option(11)
      stream.option(8)
    }
    #expect(shell.sent[1] == reply(11, 1) && shell.sent[2] == reply(11, 1))
    #expect(shell.sent[3][12..<16] == [0x80, 0, 0, 10], "ERR_EXT_HEADER_REQD")
    #expect(negotiate { $0.option(11, [0]) }.sent[1][12..<16] == [0x80, 0, 0, 3], "data gets ERR_INVALID")
  }

  @Test("after EXTENDED_HEADERS the old EXPORT_NAME ends the connection, GO does not")
  func exportName() {
    guard
      case .hangUp([], _) = negotiate({
        $0.option(11)
        $0.option(1, Array("disk".utf8))
      }).events.last
    else {
      Issue.record("not hung up")
      return
    }
    #expect(Shell.transmitting(extended: true).machine.isTransmitting)
  }

  @Test("BLOCK_STATUS_PAYLOAD is advertised with contexts to choose from, and only then")
  func payloadFlag() {
    func flags(contexts: Bool) -> UInt8 {
      let sent = negotiate { stream in
        stream.option(11)
        if contexts { stream.contexts(10, "disk", ["base:allocation"]) }
        stream.go("disk")
      }.sent.last!
      return sent[30]
    }
    #expect(flags(contexts: true) == 0x1d)
    #expect(flags(contexts: false) == 0x0d)
  }

  @Test("requests of 64-bit lengths reach the operation, with the offset for the reply")
  func longRequests() {
    let range = ByteRange(offset: 1 << 33, count: 1 << 42)
    let tag = RequestTag(cookie: 7, offset: 1 << 33)
    #expect(
      verdict { $0.extended(6, flags: 2, offset: 1 << 33, length: 1 << 42) }
        == .request(Request(tag, .writeZeroes(range, mayTrim: false, durable: false))))
    #expect(
      verdict { $0.extended(4, offset: 1 << 33, length: 1 << 42) }
        == .request(Request(tag, .trim(range, durable: false))))
    #expect(
      verdict(["base:allocation"]) { $0.extended(7, offset: 1 << 33, length: 1 << 42) }
        == .request(Request(tag, .blockStatus(range, contexts: [allocation], onlyOne: false))))
  }

  @Test("lengths that overflow are refused as beyond the end", arguments: [UInt64.max, 1 << 63, 1 << 44])
  func overflow(length: UInt64) {
    for (type, code) in [(4, .invalid), (5, .invalid), (6, .noSpace), (0, .invalid)] as [(UInt16, NBDError)] {
      #expect(error(verdict { $0.extended(type, offset: 1, length: length) }) == code)
    }
    #expect(error(verdict { $0.extended(0, offset: 0, length: 1 << 40) }) == .overflow)
  }

  @Test("a write without PAYLOAD_LEN has no payload and gets EINVAL")
  func writeWithoutPayload() {
    #expect(error(verdict { $0.extended(1, length: 512) }) == .invalid)
  }

  @Test(
    "a payload that does not belong is consumed, then refused with EINVAL",
    arguments: [0, 3, 4, 5, 6, 8, 77] as [UInt16])
  func unexpectedPayload(type: UInt16) {
    let payload = [UInt8](repeating: 0x21, count: 100)
    #expect(error(verdict { $0.extended(type, flags: 32, length: 100, payload: payload) }) == .invalid)
  }

  @Test("a payload of more than 64 MiB ends the connection", arguments: [0, 1, 7] as [UInt16])
  func hugePayload(type: UInt16) {
    var shell = Shell.transmitting(extended: true, contexts: ["base:allocation"])
    var stream = ClientStream()
    stream.extended(type, flags: 32, length: (64 << 20) + 1)
    shell.run(stream.bytes)
    guard case .hangUp([], _) = shell.events.last else {
      Issue.record("not hung up")
      return
    }
  }

  @Test("a compact request after extended headers ends the connection")
  func compactRequest() {
    var shell = Shell.transmitting(extended: true)
    var stream = ClientStream()
    // One: there will be no more before it is answered.
    stream.request(3)
    shell.run(stream.bytes)
    guard case .hangUp([], _) = shell.events.last else {
      Issue.record("not hung up")
      return
    }
  }

  @Test("the payload of BLOCK_STATUS chooses among the contexts, in its own order")
  func filter() {
    let all = ["base:allocation", "x-spillway:state", "qemu:dirty-bitmap:a"]
    func status(_ ids: [UInt32], length: UInt64 = 4096) -> ServerMachine.Event {
      let payload = big(length) + ids.flatMap { big($0) }
      return verdict(all) {
        $0.extended(7, flags: 32 | 8, offset: 512, length: UInt64(payload.count), payload: payload)
      }
    }
    let tag = RequestTag(cookie: 7, offset: 512)
    let range = ByteRange(offset: 512, count: 4096)
    func served(_ contexts: [MetaContext]) -> ServerMachine.Event {
      .request(Request(tag, .blockStatus(range, contexts: contexts, onlyOne: true)))
    }
    let bitmap = MetaContext(id: 3, name: all[2])
    #expect(status([3, 1]) == served([bitmap, allocation]))
    #expect(status([]) == served([]))
    #expect(error(status([4])) == .invalid, "unknown")
    #expect(error(status([1, 1])) == .invalid, "twice")
    #expect(error(status([1, 2, 3, 1])) == .invalid, "more than there are")
    #expect(error(status([1], length: 1 << 44)) == .invalid, "beyond the end")
    #expect(error(status([1], length: 0)) == .invalid)
    for byteCount in [0, 7, 9, 13] {
      let payload = [UInt8](repeating: 0, count: byteCount)
      #expect(
        error(verdict(all) { $0.extended(7, flags: 32, length: UInt64(byteCount), payload: payload) })
          == .invalid, "\(byteCount) bytes")
    }
    let payload = big(512 as UInt64) + big(1 as UInt32)
    #expect(
      error(verdict { $0.extended(7, flags: 32, length: 12, payload: payload) }) == .invalid, "no context")
  }
}
