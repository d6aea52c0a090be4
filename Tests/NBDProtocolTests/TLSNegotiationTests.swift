import Bytes
import NBDProtocol
import Testing

// Goal: STARTTLS and what is refused without it follow the modes NOTLS, SELECTIVETLS and FORCEDTLS of doc/proto.md, and
// nothing that was said in the clear counts after it.
// Method: literal bytes; the shell of the tests "encrypts" by doing nothing.

@Suite("Negotiating TLS")
struct TLSNegotiationTests {
  private let names: [UInt8: String] = [1: "UNSUP", 3: "INVALID", 5: "TLS_REQD", 6: "UNKNOWN"]

  /// A shell that has seen each of `steps`, sent apart: a client waits for the answer to STARTTLS.
  private func shell(_ policy: TLSPolicy, _ steps: [(inout ClientStream) -> Void]) -> Shell {
    var shell = Shell(tls: policy)
    shell.exports[1].requiresTLS = true
    for (index, step) in steps.enumerated() {
      var stream = index == 0 ? ClientStream.flags() : ClientStream()
      step(&stream)
      shell.run(stream.bytes)
    }
    return shell
  }

  /// The last reply: ACK, an error's name, or "end".
  private func outcome(_ policy: TLSPolicy, _ steps: ((inout ClientStream) -> Void)...) -> String {
    let shell = shell(policy, steps)
    if case .hangUp(let bytes, _) = shell.events.last { return bytes.isEmpty ? "end" : "ACK, end" }
    let last = shell.sent.last!
    let type = last.suffix(lastReplyByteCount(last))
    let code = type[type.startIndex + 15]
    return type[type.startIndex + 12] == 0 ? "ACK" : names[code] ?? "\(code)"
  }

  /// Where the last of several replies begins, from the end.
  private func lastReplyByteCount(_ bytes: [UInt8]) -> Int {
    var start = 0
    while true {
      let next = start + 20 + Int(bytes.bigEndian(at: start + 16, as: UInt32.self)!)
      if next >= bytes.count { return bytes.count - start }
      start = next
    }
  }

  @Test("without TLS, STARTTLS gets ERR_UNSUP and nothing gets TLS_REQD")
  func off() {
    #expect(outcome(.off, { $0.option(5) }) == "UNSUP")
    #expect(outcome(.off, { $0.go("nowhere") }) == "UNKNOWN")
    #expect(outcome(.off, { $0.go("disk") }) == "ACK")
  }

  @Test(
    "STARTTLS is acknowledged once; with data, or again, it gets ERR_INVALID",
    arguments: [TLSPolicy.on, .require])
  func startTLS(policy: TLSPolicy) {
    #expect(outcome(policy, { $0.option(5) }) == "ACK")
    #expect(outcome(policy, { $0.option(5, [0]) }) == "INVALID")
    #expect(outcome(policy, { $0.option(5) }, { $0.option(5) }) == "INVALID")
  }

  @Test(
    "where TLS is required every option but STARTTLS and ABORT gets TLS_REQD before it, in step",
    arguments: [3, 4, 6, 7, 8, 9, 10, 11, 77] as [UInt32])
  func required(option: UInt32) {
    let before = outcome(.require, { $0.option(option, [UInt8](repeating: 1, count: 40_000)) })
    #expect(before == "TLS_REQD")
    #expect(
      outcome(
        .require,
        {
          $0.option(option, [1, 2, 3])
          $0.option(2)
        }) == "ACK, end")
  }

  @Test("where TLS is required EXPORT_NAME before it ends the connection; after it everything works")
  func requiredExportName() {
    #expect(outcome(.require, { $0.option(1, Array("disk".utf8)) }) == "end")
    #expect(outcome(.require, { $0.option(5) }, { $0.go("disk") }) == "ACK")
    #expect(outcome(.require, { $0.option(5) }, { $0.go("view") }) == "ACK")
  }

  @Test("where TLS is offered only exports that require it get TLS_REQD, and LIST hides them")
  func selective() {
    #expect(outcome(.on, { $0.go("disk") }) == "ACK")
    #expect(outcome(.on, { $0.go("view") }) == "TLS_REQD")
    #expect(outcome(.on, { $0.go("view", option: 6) }) == "TLS_REQD")
    #expect(outcome(.on, { $0.option(1, Array("view".utf8)) }) == "end")
    #expect(outcome(.on, { $0.contexts(9, "view", []) }) == "TLS_REQD")
    #expect(outcome(.on, { $0.go("nowhere") }) == "UNKNOWN")
    #expect(outcome(.on, { $0.option(5) }, { $0.go("view") }) == "ACK")
    let listed = { (steps: [(inout ClientStream) -> Void]) in shell(.on, steps).sent.last! }
    let both =
      reply(3, 2, string("disk") + Array("a disk".utf8)) + reply(3, 2, string("view") + Array("a view".utf8))
    #expect(listed([{ $0.option(3) }]) == reply(3, 2, string("disk") + Array("a disk".utf8)) + reply(3, 1))
    #expect(listed([{ $0.option(5) }, { $0.option(3) }]) == both + reply(3, 1))
  }

  @Test("TLS forgets structured replies, extended headers and contexts that were agreed on in the clear")
  func forgotten() {
    for option in [8, 11] as [UInt32] {
      var shell = shell(
        .on,
        [
          {
            $0.option(option)
            $0.contexts(10, "disk", ["base:allocation"])
            $0.option(5)
          }, { $0.go("disk") },
        ])
      #expect(
        shell.sent.last!.starts(with: reply(7, 3, [0, 0] + big(1 << 20 as UInt64) + [0x0d, 0x6d])), "no DF")
      var stream = ClientStream()
      stream.request(7, length: 512)
      shell.run(stream.bytes)
      #expect(
        shell.events.last
          == .refuse(Refusal(RequestTag(cookie: 7), .invalid, "no metadata context was negotiated")))
    }
  }

  @Test("what follows STARTTLS in the clear is not looked at")
  func plaintextAhead() {
    let shell = shell(
      .on,
      [
        {
          $0.option(5)
          $0.option(3)
        }
      ])
    #expect(shell.sent.last == reply(5, 1))
  }
}
