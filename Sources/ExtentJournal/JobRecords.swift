internal import Bytes
internal import Threads

// What a journal remembers of the job that feeds it, so that a daemon that was killed knows it when it starts again.

/// The speed of a job before it was lowered.
package struct JobSpeed: Sendable, Equatable {
  /// The job's id.
  package var job: String
  /// Bytes a second that it had; 0: no limit.
  package var bytesPerSecond: UInt64
  /// Bytes a second that it was lowered to.
  package var loweredTo: UInt64
  /// Whether the job has it again.
  var isRestored = false

  /// A speed that is to be restored.
  package init(job: String, bytesPerSecond: UInt64, loweredTo: UInt64) {
    self.job = job
    self.bytesPerSecond = bytesPerSecond
    self.loweredTo = loweredTo
  }

  /// What is left to restore.
  var pending: JobSpeed? { isRestored ? nil : self }

  /// The body of a speed record.
  var encoded: [UInt8] {
    var bytes: [UInt8] = [isRestored ? 1 : 0, 0, 0, 0, 0, 0, 0, 0]
    bytes.appendBigEndian(bytesPerSecond)
    bytes.appendBigEndian(loweredTo)
    return bytes + job.utf8
  }

  /// Nil when `bytes` is no such body.
  init?(_ bytes: [UInt8]) {
    guard bytes.count >= 24, let speed = bytes.bigEndian(at: 8, as: UInt64.self),
      let lowered = bytes.bigEndian(at: 16, as: UInt64.self)
    else { return nil }
    self.init(
      job: String(decoding: bytes[24...], as: UTF8.self), bytesPerSecond: speed, loweredTo: lowered)
    isRestored = bytes[0] == 1
  }
}

extension Disk {
  /// The job that was once seen to live, if one was recorded for the open generation.
  package var seenJob: String? { journal.ledger.lock.withLock { layer.state.seenJob } }

  /// Records that `job` was seen to live. It survives power loss on return.
  package func recordSeenJob(_ job: String) throws(JournalError) {
    guard seenJob != job else { return }
    try journal.append(.source, layer.key, body: Array(job.utf8))
    try journal.flush()
  }

  /// The speed that a job of the open generation is to get back, if it was lowered.
  package var loweredJob: JobSpeed? { journal.ledger.lock.withLock { layer.state.loweredJob } }

  /// Records the speed that a job had before it is lowered. It survives the end of this process on return, which is
  /// enough: with the machine the job ends too.
  package func recordLowered(_ speed: JobSpeed) throws(JournalError) {
    try journal.append(.speed, layer.key, body: speed.encoded)
  }

  /// Records that the job has its speed again.
  package func recordRestored() throws(JournalError) {
    guard var speed = loweredJob else { return }
    speed.isRestored = true
    try journal.append(.speed, layer.key, body: speed.encoded)
  }
}
