package import Bytes

/// The disk that a backup job protects, read past the job: what has not arrived in the journal is still there.
///
/// Its bytes count only after the journal was looked in again and the job was confirmed (Disk+Source.swift says why).
/// All methods may be called from any thread; `read` and `confirm` may block and are called from threads that may.
package protocol LiveSource: Sendable {
  /// Bytes of the disk; constant.
  var byteCount: UInt64 { get }
  /// What was last known of the job. Never blocks. After it changed, `Disk.sourceChanged` must be called.
  var state: SourceState { get }
  /// Fills `target` with `range`. Throws when it cannot, and then `target` says nothing.
  func read(_ range: ByteRange, into target: inout MutableRawSpan) throws(JournalError)
  /// What the job is, asked after this call began: an answer to an earlier question does not do.
  func confirm() -> SourceState
}

/// Whether the job that protects a source lives.
package enum SourceState: Sendable, Equatable {
  /// It was never seen: reads of what has not arrived wait for it.
  case awaited
  /// It lives, so that what has not arrived is what the source says.
  case alive
  /// It has ended, for good: what has not arrived exists nowhere.
  case dead(String)
  /// Nobody can say now.
  case unknown(String)
}
