package import ExtentJournal
internal import QEMUMonitor

/// `spillway verify` for people and for programs.
package enum VerificationText {
  /// One line for each flaw, and one that says what was looked at.
  package static func render(_ report: VerificationReport) -> String {
    var text = ""
    for flaw in report.flaws {
      var place = flaw.disk.map { "\($0)@\(flaw.generation ?? "")" } ?? "journal"
      if let offset = flaw.offset, let length = flaw.length {
        place += " bytes \(offset) to \(offset + length)"
      }
      text += "\(place): \(flaw.message)\n"
    }
    let hidden = report.flawCount - UInt64(report.flaws.count)
    if hidden > 0 { text += "\(hidden) more\n" }
    let seals = report.seals == 0 ? "" : ", \(report.seals) seals"
    let verdict = report.flawCount == 0 ? "clean" : "\(report.flawCount) flaws"
    return text
      + "\(report.generations) generations\(seals), \(report.dataBytes) bytes read: \(verdict)\n"
  }

  /// The report as JSON with sorted members.
  package static func json(_ report: VerificationReport) throws(ServiceError) -> String {
    try JSONValue(encoding: report).text(isPretty: true) + "\n"
  }
}
