internal import Bytes
internal import ExtentJournal
internal import NBDSource

/// The live disk over NBD, and the job that protects it.
final class JobSource: LiveSource {
  private let disk: NBDSource
  private let watch: JobWatch
  private let job: WatchedJob

  init(_ disk: NBDSource, _ job: WatchedJob, _ watch: JobWatch) {
    self.disk = disk
    self.job = job
    self.watch = watch
  }

  var byteCount: UInt64 { disk.byteCount }
  var state: SourceState { watch.state(of: job) }

  func read(_ range: ByteRange, into target: inout MutableRawSpan) throws(JournalError) {
    watch.beginRead(of: job)
    defer { watch.endRead(of: job) }
    try disk.readReporting(range, into: &target)
  }

  func confirm() -> SourceState { watch.confirm(job) }
}

/// A disk that nobody writes to: what it says was always so.
final class StaticSource: LiveSource {
  private let disk: NBDSource

  init(_ disk: NBDSource) { self.disk = disk }

  var byteCount: UInt64 { disk.byteCount }
  var state: SourceState { .alive }

  func read(_ range: ByteRange, into target: inout MutableRawSpan) throws(JournalError) {
    try disk.readReporting(range, into: &target)
  }

  func confirm() -> SourceState { .alive }
}

/// A source that is gone already when the daemon starts.
struct LostSource: LiveSource {
  let byteCount: UInt64
  let reason: String

  var state: SourceState { .dead(reason) }
  func read(_ range: ByteRange, into target: inout MutableRawSpan) throws(JournalError) {
    throw JournalError(.failed, reason)
  }
  func confirm() -> SourceState { state }
}

extension NBDSource {
  /// As `read`, in the words that the engine passes on.
  fileprivate func readReporting(
    _ range: ByteRange, into target: inout MutableRawSpan
  ) throws(JournalError) {
    do throws(SourceError) { try read(range, into: &target) } catch {
      throw JournalError(.failed, error.message)
    }
  }
}
