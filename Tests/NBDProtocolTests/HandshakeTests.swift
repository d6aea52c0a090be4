import Bytes
import NBDProtocol
import Testing

// Goal: each option gets the reply that doc/proto.md asks for, and nothing a client says loses the step.
// Method: literal bytes in, literal bytes out.

@Suite("The negotiation")
struct HandshakeTests {
  private let export = big(0 as UInt16) + big(1 << 20 as UInt64)
  private let blockSize = big(3 as UInt16) + big(1 as UInt32) + big(65536 as UInt32) + big(32 << 20 as UInt32)

  private func negotiate(flags: UInt32 = 3, _ build: (inout ClientStream) -> Void) -> Shell {
    var stream = ClientStream.flags(flags)
    build(&stream)
    var shell = Shell()
    shell.run(stream.bytes)
    return shell
  }

  /// Runs `build` and then NBD_OPT_ABORT: the error replies' types, and proof that the machine is in step.
  private func replyTypes(_ build: (inout ClientStream) -> Void) -> [UInt32] {
    let shell = negotiate { stream in
      build(&stream)
      stream.option(2)
    }
    #expect(shell.events.last == .hangUp(reply(2, 1), reason: "NBD_OPT_ABORT"), "in step to the end")
    return shell.sent.dropFirst().map { bytes in bytes[12..<16].reduce(0) { $0 << 8 | UInt32($1) } }
  }

  private let unsupported: UInt32 = 0x8000_0001
  private let invalid: UInt32 = 0x8000_0003
  private let unknown: UInt32 = 0x8000_0006
  private let tooBig: UInt32 = 0x8000_0009

  @Test("the greeting offers fixed newstyle and no zeroes, and nothing else")
  func greeting() {
    let shell = negotiate { _ in }
    #expect(shell.sent == [Array("NBDMAGICIHAVEOPT".utf8) + [0, 3]])
  }

  @Test("unknown client flags end the connection", arguments: [4, 7, 0x8000_0003] as [UInt32])
  func clientFlags(flags: UInt32) {
    guard case .hangUp([], _) = negotiate(flags: flags, { $0.option(3) }).events.last else {
      Issue.record("not hung up")
      return
    }
  }

  @Test("GO sends the size, flags and block sizes, and the name and description that were asked for")
  func go() {
    let shell = negotiate { stream in
      stream.option(8)
      stream.go("disk", infos: [1, 2])
    }
    // HAS_FLAGS FLUSH FUA TRIM WRITE_ZEROES DF MULTI_CONN CACHE FAST_ZERO
    let flags: [UInt8] = [0x0d, 0xed]
    #expect(
      shell.sent.last == reply(7, 3, export + flags) + reply(7, 3, blockSize)
        + reply(7, 3, [0, 1] + Array("disk".utf8)) + reply(7, 3, [0, 2] + Array("a disk".utf8)) + reply(7, 1))
    #expect(shell.machine.isTransmitting)
  }

  @Test("INFO gives the answers of GO and stays in the negotiation; DF needs structured replies")
  func info() {
    let shell = negotiate { $0.go("disk", option: 6) }
    #expect(shell.sent.last == reply(6, 3, export + [0x0d, 0x6d]) + reply(6, 3, blockSize) + reply(6, 1))
    #expect(!shell.machine.isTransmitting)
  }

  @Test("INFO and a GO after it give the same answers, whatever was agreed on")
  func infoThenGo() {
    for agreed in [
      { _ in }, { $0.option(8) }, { $0.option(11) },
      {
        $0.option(11)
        $0.contexts(10, "disk", ["base:allocation"])
      },
    ] as [(inout ClientStream) -> Void] {
      let shell = negotiate { stream in
        agreed(&stream)
        stream.go("disk", infos: [1, 2, 3, 77], option: 6)
        stream.go("disk", infos: [1, 2, 3, 77])
      }
      var both = Array(shell.sent.suffix(2))
      // The replies differ only in the option that they say they answer.
      for index in both.indices {
        var start = 0
        while start < both[index].count {
          both[index].replaceSubrange(start + 8..<start + 12, with: [0, 0, 0, 0])
          start += 20 + Int(both[index].bigEndian(at: start + 16, as: UInt32.self)!)
        }
      }
      #expect(both[0] == both[1] && shell.machine.isTransmitting)
    }
  }

  @Test("a read-only export offers neither TRIM nor WRITE_ZEROES")
  func readOnlyFlags() {
    let shell = negotiate { $0.go("view") }
    #expect(shell.sent.last?.starts(with: reply(7, 3, export + [0x05, 0x0f])) == true)
  }

  @Test("EXPORT_NAME answers with the size and flags, padded unless NO_ZEROES was agreed")
  func exportName() {
    let answer = big(1 << 20 as UInt64) + [0x0d, 0x6d] as [UInt8]
    #expect(negotiate(flags: 3) { $0.option(1, Array("disk".utf8)) }.sent.last == answer)
    #expect(
      negotiate(flags: 1) { $0.option(1, Array("disk".utf8)) }.sent.last == answer
        + [UInt8](repeating: 0, count: 124))
    guard case .hangUp([], _) = negotiate({ $0.option(1, Array("nowhere".utf8)) }).events.last else {
      Issue.record("an unknown name has no reply but the end")
      return
    }
  }

  @Test("without C_FIXED_NEWSTYLE only EXPORT_NAME is understood")
  func notFixed() {
    guard case .hangUp([], _) = negotiate(flags: 2, { $0.option(3) }).events.last else {
      Issue.record("not hung up")
      return
    }
    #expect(negotiate(flags: 2) { $0.option(1, Array("disk".utf8)) }.machine.isTransmitting)
  }

  @Test("LIST names every export with its description")
  func list() {
    let shell = negotiate { $0.option(3) }
    #expect(
      shell.sent.last == reply(3, 2, string("disk") + Array("a disk".utf8))
        + reply(3, 2, string("view") + Array("a view".utf8)) + reply(3, 1))
  }

  @Test(
    "options that are not supported get ERR_UNSUP", arguments: [4, 5, 12, 0, 0xffff_ffff] as [UInt32])
  func unsupportedOptions(option: UInt32) {
    #expect(replyTypes { $0.option(option, [1, 2, 3]) } == [unsupported])
  }

  @Test("data where none belongs, or that is not as long as it says, gets ERR_INVALID")
  func malformed() {
    let bad: [(UInt32, [UInt8])] = [
      (3, [0]), (8, [0]), (11, [0]), (6, []), (7, [0, 0, 0]), (7, big(5 as UInt32) + Array("disk".utf8)),
      (7, string("disk")), (7, string("disk") + [0, 1]), (7, string("disk") + [0, 0, 9]),
      (6, string("disk") + [0, 1, 0]), (7, big(UInt32.max) + [0, 0]), (9, string("disk")),
      (9, string("disk") + big(1 as UInt32)), (9, string("disk") + big(UInt32.max)),
      (9, string("disk") + big(1 as UInt32) + big(9 as UInt32) + Array("base".utf8)),
      (7, big(2 as UInt32) + [0xc3, 0x28] + [0, 0]), (7, big(2 as UInt32) + [0x61, 0] + [0, 0]),
    ]
    for (option, data) in bad {
      #expect(replyTypes { $0.option(option, data) } == [invalid], "option \(option), data \(data)")
    }
  }

  @Test("too long a name or option gets ERR_TOO_BIG, the stream stays in step; beyond 32 MiB it ends")
  func tooLong() {
    let name = [UInt8](repeating: 0x61, count: 4097)
    #expect(replyTypes { $0.option(7, big(UInt32(4097)) + name + [0, 0]) } == [tooBig])
    #expect(replyTypes { $0.option(3, [UInt8](repeating: 0, count: 100_000)) } == [tooBig])
    let longest = String(repeating: "a", count: 4096)
    #expect(replyTypes { $0.go(longest, option: 6) } == [unknown])
    guard case .hangUp([], _) = negotiate({ $0.option(77, [], claiming: 33 << 20) }).events.last else {
      Issue.record("not hung up")
      return
    }
  }

  @Test("a client that never stops asking is hung up on")
  func endless() {
    let shell = negotiate { stream in for _ in 0..<5000 { stream.option(8) } }
    #expect(shell.sent.count == 1 + 4096)
    #expect(shell.isOver)
  }

  @Test("an export that refuses is reported with its message, and the client may ask for another")
  func refusedBinding() {
    var shell = Shell()
    shell.bindingError = (.notPermitted, "sealed")
    var stream = ClientStream.flags()
    stream.go("disk")
    shell.run(stream.bytes)
    #expect(shell.sent.last == reply(7, 0x8000_0002, Array("sealed".utf8)))
    shell.bindingError = nil
    var again = ClientStream()
    again.go("view")
    shell.run(again.bytes)
    #expect(shell.machine.isTransmitting)
  }

  @Test("contexts are listed by wildcard and selected by their full name only")
  func contexts() {
    let listed = reply(9, 4, [0, 0, 0, 0] + Array("base:allocation".utf8)) + reply(9, 1)
    let selected = reply(10, 4, [0, 0, 0, 1] + Array("base:allocation".utf8)) + reply(10, 1)
    for (queries, answer) in [
      ([], listed), (["base:"], listed), (["base:allocation"], listed), (["x-other:y"], reply(9, 1)),
    ] as [([String], [UInt8])] {
      #expect(negotiate { $0.contexts(9, "disk", queries) }.sent.last == answer, "LIST \(queries)")
    }
    for (queries, answer) in [
      ([], reply(10, 1)), (["base:"], reply(10, 1)), (["base:allocation", "base:other"], selected),
      (["base:allocation", "base:allocation"], selected),
    ] as [([String], [UInt8])] {
      let shell = negotiate { stream in
        stream.option(8)
        stream.contexts(10, "disk", queries)
      }
      #expect(shell.sent.last == answer, "SET \(queries)")
    }
    #expect(replyTypes { $0.contexts(10, "disk", []) } == [invalid], "structured replies come first")
    #expect(replyTypes { $0.contexts(9, "nowhere", []) } == [unknown])
  }

  @Test("a selection lives only for its own export, and every SET replaces it, also one that fails")
  func selection() {
    func status(_ name: String, _ build: (inout ClientStream) -> Void) -> ServerMachine.Event? {
      negotiate { stream in
        stream.option(8)
        build(&stream)
        stream.go(name)
        stream.request(7, length: 512)
      }.events.last
    }
    let served = ServerMachine.Event.request(
      Request(
        RequestTag(cookie: 7),
        .blockStatus(.init(offset: 0, count: 512), contexts: [allocation], onlyOne: false)))
    let refused = ServerMachine.Event.refuse(
      Refusal(RequestTag(cookie: 7), .invalid, "no metadata context was negotiated"))
    let select = { (stream: inout ClientStream) in stream.contexts(10, "disk", ["base:allocation"]) }
    #expect(status("disk", select) == served)
    #expect(status("view", select) == refused)
    for replacement in [
      { $0.contexts(10, "disk", []) }, { $0.contexts(10, "nowhere", ["base:allocation"]) },
      { $0.option(10, [1]) }, { $0.option(10, [UInt8](repeating: 0, count: 40_000)) },
    ] as [(inout ClientStream) -> Void] {
      let event = status("disk") { stream in
        select(&stream)
        replacement(&stream)
      }
      #expect(event == refused)
    }
  }
}
