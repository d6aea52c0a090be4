/// A moment as people write it: `2026-11-26T01:02:03Z` (RFC 3339: with a fraction and an offset, if need be), or
/// `@1795654923` (seconds since 1970).
package enum TimeOfDay {
  /// The moment in nanoseconds since 1970; nil for what is none.
  package static func nanoseconds(_ text: String) -> UInt64? {
    if text.hasPrefix("@") { return seconds(text.dropFirst()) }
    var rest = Substring(text)
    guard let year = number(&rest, 4), skip(&rest, "-"), let month = number(&rest, 2), skip(&rest, "-"),
      let day = number(&rest, 2), skip(&rest, "T") || skip(&rest, "t") || skip(&rest, " "),
      let hour = number(&rest, 2), skip(&rest, ":"), let minute = number(&rest, 2), skip(&rest, ":"),
      let second = number(&rest, 2), year >= 1970, (1...12).contains(month),
      (1...daysOfMonth(month, year)).contains(day), hour < 24, minute < 60, second <= 60
    else { return nil }
    var fraction: UInt64 = 0
    if skip(&rest, ".") {
      let digits = rest.prefix { $0.isASCII && $0.isNumber }
      guard let parsed = nanosecondFraction(digits) else { return nil }
      fraction = parsed
      rest = rest.dropFirst(digits.count)
    }
    guard let offset = offset(&rest), rest.isEmpty else { return nil }
    let time = hour * 3600 + minute * 60 + second - offset
    let total = daysSince1970(year, month, day) * 86_400 + time
    return total < 0 ? nil : UInt64(total) * 1_000_000_000 + fraction
  }

  private static func seconds(_ text: Substring) -> UInt64? {
    let parts = text.split(separator: ".", maxSplits: 1, omittingEmptySubsequences: false)
    guard let whole = parts.first, whole.allSatisfy({ $0.isASCII && $0.isNumber }),
      let seconds = UInt64(whole),
      seconds < 1 << 34
    else { return nil }
    guard parts.count == 2 else { return seconds * 1_000_000_000 }
    return nanosecondFraction(parts[1]).map { seconds * 1_000_000_000 + $0 }
  }

  private static func nanosecondFraction(_ digits: Substring) -> UInt64? {
    guard (1...9).contains(digits.count), digits.allSatisfy({ $0.isASCII && $0.isNumber }) else { return nil }
    return UInt64(digits + String(repeating: "0", count: 9 - digits.count))
  }

  private static func number(_ rest: inout Substring, _ count: Int) -> Int? {
    let digits = rest.prefix(count)
    guard digits.count == count, digits.allSatisfy({ $0.isASCII && $0.isNumber }) else { return nil }
    rest = rest.dropFirst(count)
    return Int(digits)
  }

  private static func skip(_ rest: inout Substring, _ character: Character) -> Bool {
    guard rest.first == character else { return false }
    rest = rest.dropFirst()
    return true
  }

  /// Seconds east of Greenwich.
  private static func offset(_ rest: inout Substring) -> Int? {
    if skip(&rest, "Z") || skip(&rest, "z") { return 0 }
    let sign = skip(&rest, "+") ? 1 : skip(&rest, "-") ? -1 : 0
    guard sign != 0, let hours = number(&rest, 2), skip(&rest, ":"), let minutes = number(&rest, 2),
      hours < 24, minutes < 60
    else { return nil }
    return sign * (hours * 3600 + minutes * 60)
  }

  private static func daysOfMonth(_ month: Int, _ year: Int) -> Int {
    if month == 2 { return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) ? 29 : 28 }
    return [4, 6, 9, 11].contains(month) ? 30 : 31
  }

  /// By the calendar that has been in force since 1582; the inverse of `LogText.moment`.
  private static func daysSince1970(_ year: Int, _ month: Int, _ day: Int) -> Int {
    let shifted = month > 2 ? year : year - 1
    let (era, yearOfEra) = (shifted / 400, shifted % 400)
    let march = month > 2 ? month - 3 : month + 9
    let dayOfYear = (153 * march + 2) / 5 + day - 1
    return era * 146_097 + yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear - 719_468
  }
}
