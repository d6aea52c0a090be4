import QEMUMonitor
import SpillwayService
import Testing

/// Goal: JSON in and out without loss, and no input that makes a thread's small stack overflow.
/// Method: texts through `JSONValue` and back.
@Suite struct JSONValueTests {
  private func parse(_ text: String) -> JSONValue? { JSONValue(parsing: Array(text.utf8)) }

  @Test(
    "what is parsed prints the same, with members sorted",
    arguments: [
      ("null", "null"), ("true", "true"), ("0", "0"), ("18446744073709551615", "18446744073709551615"),
      ("-9223372036854775808", "-9223372036854775808"), ("1.5", "1.5"), ("\"a/ü\\n\"", "\"a/ü\\n\""),
      ("[1,[],{}]", "[1,[],{}]"),
      ("{\"b\":1,\"a\":{\"d\":null,\"c\":false}}", "{\"a\":{\"c\":false,\"d\":null},\"b\":1}"),
    ])
  func roundTrip(text: String, printed: String) throws {
    #expect(try parse(text)?.text() == printed)
  }

  @Test("what is no JSON is nil", arguments: ["", "{", "[1,]x", "{\"a\":}", "nul", "\u{0}"])
  func bad(text: String) {
    #expect(parse(text) == nil)
  }

  @Test("values nested as deep as allowed are read, deeper ones are refused without being decoded")
  func depth() {
    func nested(_ depth: Int) -> String {
      String(repeating: "[", count: depth) + String(repeating: "]", count: depth)
    }
    #expect(parse(nested(JSONValue.depthMax)) != nil)
    #expect(parse(nested(JSONValue.depthMax + 1)) == nil)
    #expect(parse(nested(30_000)) == nil)
  }

  @Test("brackets inside strings nest nothing")
  func bracketsInStrings() {
    let text = "\"" + String(repeating: "[", count: 100) + "\\\"{{\""
    #expect(parse(text)?.string?.count == 103)
  }
}
