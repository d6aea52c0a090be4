import SpillwayService
import Testing

// Goal: what names a point in time means that one, and anything else is refused.
// Method: examples, and each day of four centuries there and back.

@Suite struct PastNameTests {
  @Test("NAME@=SEQUENCE is a disk and a number")
  func names() throws {
    #expect(try PastName(parsing: "vda@=12", context: "c") == PastName(parsing: "vda@=012", context: "c"))
    #expect(try PastName(parsing: "vda@=12", context: "c")?.disk == "vda")
    #expect(try PastName(parsing: "vda@=12", context: "c")?.sequence == 12)
    for other in ["vda", "vda@live", "vda@12", "", "@"] {
      #expect(try PastName(parsing: other, context: "c") == nil, "\(other)")
    }
    for wrong in ["vda@=", "vda@=x", "vda@=-1", "vda@=+1", "vda@= 1", "vda@=99999999999999999999"] {
      #expect(throws: ServiceError.self) { _ = try PastName(parsing: wrong, context: "replay \(wrong)") }
    }
  }

  @Test("a time is RFC 3339 or seconds since 1970")
  func times() {
    let second: UInt64 = 1_000_000_000
    let base: UInt64 = 1_795_654_923
    for (text, expected) in [
      ("2026-11-26T01:02:03Z", base * second), ("2026-11-26t01:02:03z", base * second),
      ("2026-11-26 01:02:03Z", base * second), ("2026-11-26T02:02:03+01:00", base * second),
      ("2026-11-25T19:32:03-05:30", base * second), ("2026-11-26T01:02:03.5Z", base * second + second / 2),
      ("2026-11-26T01:02:03.000000001Z", base * second + 1), ("@1795654923", base * second),
      ("@1795654923.25", base * second + second / 4), ("@0", 0),
      ("2024-02-29T00:00:00Z", 1_709_164_800 * second),
    ] {
      #expect(TimeOfDay.nanoseconds(text) == expected, "\(text)")
    }
    for wrong in [
      "", "now", "@", "@-1", "@1.", "@1.x", "2026-11-26", "2026-11-26T01:02:03", "2026-13-01T00:00:00Z",
      "2026-02-29T00:00:00Z", "2026-11-26T24:00:00Z", "2026-11-26T01:02:03+1", "2026-11-26T01:02:03Zx",
      "1969-12-31T23:59:59Z", "1970-01-01T00:00:00+01:00",
    ] {
      #expect(TimeOfDay.nanoseconds(wrong) == nil, "\(wrong)")
    }
  }

  @Test("what the log prints is a time that --at takes")
  func roundTrip() {
    for day in 0..<(400 * 365) as Range<UInt64> {
      let time = (day * 86_400 + day % 86_400) * 1_000_000_000
      let text = LogText.moment(time)
      if TimeOfDay.nanoseconds(text) != time { Issue.record("\(text) is not \(time)") }
    }
  }
}
