package import ExtentJournal
internal import QEMUMonitor

/// What `spillway log` prints.
package enum LogText {
  /// The line above those for people.
  package static let heading =
    "    sequence  time                  disk              generation        kind               offset           length    stored     batch\n"

  /// A record as an object on a line of its own; what is not known is null.
  package static func json(_ record: LoggedRecord) throws(ServiceError) -> String {
    let time = record.timeNanoseconds.map { JSONValue.integer(Int64(clamping: $0)) } ?? .null
    let object: JSONValue = [
      "sequence": .integer(Int64(clamping: record.sequence)), "time": time,
      "disk": record.disk.map { .string($0) } ?? .null,
      "generation": record.generation.map { .string($0) } ?? .null, "kind": .string(record.kind),
      "offset": .integer(Int64(clamping: record.offset)), "length": .integer(Int64(clamping: record.length)),
      "stored": .integer(Int64(clamping: record.storedByteCount)),
      "batchEnd": record.batchEnd.map { .integer(Int64(clamping: $0)) } ?? .null,
    ]
    return try object.text() + "\n"
  }

  /// A record as a line for people; times are UTC.
  package static func line(_ record: LoggedRecord) -> String {
    let batch = record.batchEnd.map(String.init) ?? "moved"
    let columns = [
      right(String(record.sequence), 12), left(record.timeNanoseconds.map(moment) ?? "-", 20),
      left(record.disk ?? "-", 16), left(record.generation ?? "-", 16), left(record.kind, 9),
      right(String(record.offset), 15), right(String(record.length), 15),
      right(String(record.storedByteCount), 8), right(batch, 8),
    ]
    return columns.joined(separator: "  ") + "\n"
  }

  private static func left(_ text: String, _ width: Int) -> String {
    text + String(repeating: " ", count: max(0, width - text.count))
  }

  private static func right(_ text: String, _ width: Int) -> String {
    String(repeating: " ", count: max(0, width - text.count)) + text
  }

  /// `2026-11-26T01:02:03Z`, by the calendar that has been in force since 1582.
  package static func moment(_ nanoseconds: UInt64) -> String {
    let seconds = Int64(nanoseconds / 1_000_000_000)
    let (day, second) = (seconds / 86_400, seconds % 86_400)
    // Days since 0000-03-01, in eras of 400 years.
    let days = day + 719_468
    let (era, dayOfEra) = (days / 146_097, days % 146_097)
    let year = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
    let dayOfYear = dayOfEra - (365 * year + year / 4 - year / 100)
    let march = (5 * dayOfYear + 2) / 153
    let month = march < 10 ? march + 3 : march - 9
    let date = [era * 400 + year + (month <= 2 ? 1 : 0), month, dayOfYear - (153 * march + 2) / 5 + 1]
    let time = [second / 3600, second / 60 % 60, second % 60]
    func two(_ number: Int64) -> String { number < 10 ? "0\(number)" : "\(number)" }
    return date.map(two).joined(separator: "-") + "T" + time.map(two).joined(separator: ":") + "Z"
  }
}
