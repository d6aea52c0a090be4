import Bytes
import ExtentJournal
import Threads

/// A live disk in memory, whose guest writes as qemu has it write: only after the old bytes were acknowledged.
final class FakeSource: LiveSource, @unchecked Sendable {
  // Sendable: guarded by `lock`; the closures are set before the source is attached.
  private let lock = Lock()
  private var content: [UInt8]
  private var job: SourceState
  private var answers: [SourceState] = []
  private var failure: JournalError?
  private var reads: [ByteRange] = []
  private var questions = 0
  let byteCount: UInt64

  /// Called in the middle of a read, when half of it is copied, and after the read.
  var duringRead: @Sendable (ByteRange) -> Void = { _ in }
  var afterRead: @Sendable (ByteRange) -> Void = { _ in }

  init(_ content: [UInt8], state: SourceState = .alive) {
    self.content = content
    byteCount = UInt64(content.count)
    job = state
  }

  /// What the job is known, and confirmed, to be.
  var state: SourceState {
    get { lock.withLock { job } }
    set { lock.withLock { job = newValue } }
  }

  /// What the next questions are answered, before `state` is again.
  func answer(_ states: SourceState...) { lock.withLock { answers += states } }
  func fail(_ error: JournalError?) { lock.withLock { failure = error } }

  var readRanges: [ByteRange] { lock.withLock { reads } }
  var questionCount: Int { lock.withLock { questions } }

  func confirm() -> SourceState {
    lock.withLock {
      questions += 1
      return answers.isEmpty ? job : answers.removeFirst()
    }
  }

  func read(_ range: ByteRange, into target: inout MutableRawSpan) throws(JournalError) {
    let half = range.start + range.count / 2
    try copy(ByteRange(start: range.start, end: half), &target, 0)
    duringRead(range)
    try copy(ByteRange(start: half, end: range.end), &target, Int(half - range.start))
    lock.withLock { reads.append(range) }
    afterRead(range)
  }

  private func copy(
    _ range: ByteRange, _ target: inout MutableRawSpan, _ offset: Int
  ) throws(JournalError) {
    let bytes = try lock.withLock { () throws(JournalError) in
      if let failure { throw failure }
      return Array(content[Int(range.start)..<Int(range.end)])
    }
    target.copy(bytes.span.bytes, at: offset)
  }

  /// The guest's bytes reach the disk.
  func overwrite(_ range: ByteRange, with byte: UInt8) {
    lock.withLock {
      for index in Int(range.start)..<Int(range.end) { content[index] = byte }
    }
  }

  /// The old bytes of `range`, as the job sends them.
  func old(_ range: ByteRange) -> [UInt8] {
    lock.withLock { Array(content[Int(range.start)..<Int(range.end)]) }
  }

  /// A guest's write, whole: the job sends the old bytes to `disk`, and when they are acknowledged the new ones are
  /// written.
  func guestWrites(_ byte: UInt8, to range: ByteRange, of disk: Disk) throws {
    try disk.write(old(range), at: range.start)
    overwrite(range, with: byte)
  }
}
