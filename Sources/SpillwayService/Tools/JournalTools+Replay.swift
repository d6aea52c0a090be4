internal import Bytes
internal import ExtentJournal
internal import Logging

extension JournalTools {
  /// `spillway replay`: writes `NAME`, `NAME@GENERATION` or `NAME@=SEQUENCE` to `output`; `time` is what `--at` says.
  package func replay(
    _ name: String, at time: String? = nil, to output: ReplayOutput, _ options: ReplayOptions
  ) throws(ServiceError) {
    if let since = options.since {
      _ = try DiskSpecification.checkedName(since, context: "replay --since \(since)")
    }
    try output.check(options)
    let (reader, name) = try locate(name, at: time, command: "replay")
    let replay = try reportingJournalErrors { () throws(JournalError) in
      try Replay(of: name, from: reader, since: options.since, tainted: options.tainted)
    }
    let image = try output.open(byteCount: replay.byteCount, options)
    let report: Replay.Report
    do throws(ServiceError) {
      report = try write(replay, to: image, name, options)
      try image.settle()
    } catch {
      image.discard()
      throw image.remains.isEmpty ? error : ServiceError(error.status, "\(error.message); \(image.remains)")
    }
    if !replay.isComplete && report.absentBytes > 0 {
      log.warning(
        "the stream of \(name) has not ended: \(ByteCount.text(report.absentBytes)) have not arrived and are zeroes"
      )
    }
  }

  private func write(
    _ replay: Replay, to image: OpenOutput, _ name: String, _ options: ReplayOptions
  ) throws(ServiceError) -> Replay.Report {
    var progress = ProgressLine(name)
    defer { progress.clear() }
    let report = try reportingJournalErrors { () throws(JournalError) in
      try replay.write(to: image.sink) { progress.update(done: $0, total: $1) }
    }
    progress.clear()
    guard options.verifies, let written = image.reader else { return report }
    progress = ProgressLine("\(name), read back")
    try reportingJournalErrors { () throws(JournalError) in
      try replay.compare(with: written) { progress.update(done: $0, total: $1) }
    }
    return report
  }
}
