import Bytes
import NBDProtocol
import Testing

// Goal: replies are on the wire as doc/proto.md draws them.
// Method: literal bytes.

@Suite("Writing replies")
struct ReplyEncoderTests {
  private let tag = RequestTag(cookie: 0x0102_0304_0506_0708, offset: 0x1122)
  private let cookieBytes: [UInt8] = [1, 2, 3, 4, 5, 6, 7, 8]
  private let simple: [UInt8] = [0x67, 0x44, 0x66, 0x98]
  private let chunk: [UInt8] = [0x66, 0x8e, 0x33, 0xef]
  private let range = ByteRange(offset: 0x1000, count: 0x200)

  private func written(
    structured: Bool = true, extended: Bool = false, _ write: (ReplyEncoder, inout [UInt8]) -> Void
  ) -> [UInt8] {
    var bytes: [UInt8] = []
    write(ReplyEncoder(extended ? .extended : structured ? .structured : .simple), &bytes)
    return bytes
  }

  @Test("simple replies carry an error number and the cookie")
  func simpleReplies() {
    let refusal = Refusal(tag, .noSpace, "full")
    #expect(
      written(structured: false) { $0.appendSuccess(tag, to: &$1) }
        == simple + [0, 0, 0, 0] + cookieBytes)
    #expect(
      written(structured: false) { $0.appendFailure(refusal, to: &$1) } == simple + [0, 0, 0, 28]
        + cookieBytes)
    #expect(
      written(structured: false) { $0.appendWholeRead(range, tag, to: &$1) }
        == simple + [0, 0, 0, 0] + cookieBytes)
  }

  @Test("chunks carry their offset and length, and the last one says so")
  func chunks() {
    #expect(
      written(structured: true) { $0.appendData(range, tag, isLast: false, to: &$1) }
        == chunk + [0, 0, 0, 1] + cookieBytes + [0, 0, 2, 8] + [0, 0, 0, 0, 0, 0, 0x10, 0])
    #expect(
      written(structured: true) { $0.appendWholeRead(range, tag, to: &$1) }
        == chunk + [0, 1, 0, 1] + cookieBytes + [0, 0, 2, 8] + [0, 0, 0, 0, 0, 0, 0x10, 0])
    #expect(
      written(structured: true) { $0.appendHole(range, tag, isLast: true, to: &$1) }
        == chunk + [0, 1, 0, 2] + cookieBytes + [0, 0, 0, 12] + [0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 2, 0])
    #expect(
      written(structured: true) { $0.appendNone(tag, to: &$1) }
        == chunk + [0, 1, 0, 0] + cookieBytes + [0, 0, 0, 0])
    let extents = [BlockExtent(byteCount: 512, flags: 3), BlockExtent(byteCount: 65536, flags: 0)]
    #expect(
      written(structured: true) {
        $0.appendBlockStatus(extents, context: 1, tag, isLast: true, to: &$1)
      } == chunk + [0, 1, 0, 5] + cookieBytes + [0, 0, 0, 20] + [0, 0, 0, 1]
        + [0, 0, 2, 0, 0, 0, 0, 3] + [0, 1, 0, 0, 0, 0, 0, 0])
  }

  @Test("errors go with their message, whole characters of it")
  func errors() {
    let refusal = Refusal(tag, .invalid, "nö")
    let text: [UInt8] = [0x6e, 0xc3, 0xb6]
    #expect(
      written(structured: true) { $0.appendFailure(refusal, to: &$1) }
        == chunk + [0, 1, 0x80, 1] + cookieBytes + [0, 0, 0, 9] + [0, 0, 0, 22, 0, 3] + text)
    #expect(
      written(structured: true) { $0.appendFailure(refusal, at: 0x1001, to: &$1) }
        == chunk + [0, 1, 0x80, 2] + cookieBytes + [0, 0, 0, 17] + [0, 0, 0, 22, 0, 3] + text
        + [0, 0, 0, 0, 0, 0, 0x10, 1])
    let long = Refusal(tag, .invalid, "x" + String(repeating: "ö", count: 3000))
    let bytes = written(structured: true) { $0.appendFailure(long, to: &$1) }
    #expect(bytes.count == 20 + 6 + 1023, "a character is not cut in half")
    #expect(String(validating: bytes.dropFirst(26), as: UTF8.self) != nil)
  }

  @Test(
    "extended chunks repeat the request's offset, have lengths of 64 bits, and there are no simple replies")
  func extended() {
    let start: [UInt8] = [0x6e, 0x8a, 0x27, 0x8c]
    let place = cookieBytes + [0, 0, 0, 0, 0, 0, 0x11, 0x22]
    #expect(
      written(extended: true) { $0.appendSuccess(tag, to: &$1) }
        == start + [0, 1, 0, 0] + place + big(0 as UInt64))
    #expect(
      written(extended: true) { $0.appendWholeRead(range, tag, to: &$1) }
        == start + [0, 1, 0, 1] + place + big(0x208 as UInt64) + big(0x1000 as UInt64))
    #expect(
      written(extended: true) { $0.appendFailure(Refusal(tag, .noSpace, "x"), to: &$1) }
        == start + [0, 1, 0x80, 1] + place + big(7 as UInt64) + [0, 0, 0, 28, 0, 1, 0x78])
    let extents = [BlockExtent(byteCount: 1 << 40, flags: 3), BlockExtent(byteCount: 512, flags: 0)]
    #expect(
      written(extended: true) { $0.appendBlockStatus(extents, context: 9, tag, isLast: false, to: &$1) }
        == start + [0, 0, 0, 6] + place + big(40 as UInt64) + [0, 0, 0, 9, 0, 0, 0, 2]
        + big(1 << 40 as UInt64) + big(3 as UInt64) + big(512 as UInt64) + big(0 as UInt64))
  }
}
