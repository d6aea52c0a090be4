/// The source of a disk as `--source NAME=URI[,job=ID|,static]` names it.
package struct SourceSpecification: Hashable, Sendable {
  /// The disk.
  package var disk: String
  /// Where the live disk is, as libnbd takes it.
  package var uri: String
  /// The job that protects it; nil when it never changes.
  package var job: String?

  /// The disk `disk` at `uri`, protected by `job`.
  init(disk: String, uri: String, job: String?) {
    self.disk = disk
    self.uri = uri
    self.job = job
  }

  /// Parses the value of `--source`. A URI may have commas in it: only the last one can begin an option.
  package init(parsing text: String) throws(ServiceError) {
    guard let equals = text.firstIndex(of: "=") else { throw Self.malformed(text) }
    disk = try DiskSpecification.checkedName(String(text[..<equals]), context: "--source \(text)")
    let rest = text[text.index(after: equals)...]
    if rest.hasSuffix(",static") {
      uri = String(rest.dropLast(",static".count))
    } else if let comma = rest.lastIndex(of: ","), rest[comma...].hasPrefix(",job=") {
      uri = String(rest[..<comma])
      let id = String(rest[comma...].dropFirst(",job=".count))
      guard !id.isEmpty else { throw Self.malformed(text) }
      job = id
    } else {
      throw .usage(
        "--source \(text): say ,job=ID for the job that protects the disk, or ,static if nobody writes to it")
    }
    guard !uri.isEmpty else { throw Self.malformed(text) }
  }

  private static func malformed(_ text: String) -> ServiceError {
    .usage("--source \(text): a source is NAME=NBD-URI,job=ID or NAME=NBD-URI,static")
  }
}
