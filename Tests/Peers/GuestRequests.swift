/// What was sent to the disks of a machine in its guest's place, and what came back, by the lines that qemu-io says.
struct GuestRequests {
  private var writesSent = 0
  private var readsSent = 0
  private var writesAnswered = 0
  private var readsAnswered = 0
  private var linesRead = 0
  /// Errors of writes that nobody has asked for yet, in qemu's words.
  private var writeErrors: [String] = []
  private var readError: String?
  private var foundOtherBytes = false

  var unansweredWrites: Int { writesSent - writesAnswered }
  var unansweredReads: Int { readsSent - readsAnswered }

  mutating func sentWrite() { writesSent += 1 }

  mutating func sentRead() {
    readsSent += 1
    (readError, foundOtherBytes) = (nil, false)
  }

  /// Takes note of the next line that `child` says within `limit`; false if there is none.
  mutating func hear(_ child: ChildProcess, within limit: Duration) -> Bool {
    guard let line = child.errorLine(after: linesRead, within: limit) else { return false }
    linesRead += 1
    // Each request ends in exactly one of the first four; the fifth comes before the end of its read.
    if line.hasPrefix("wrote ") {
      writesAnswered += 1
    } else if line.hasPrefix("aio_write failed: ") {
      writesAnswered += 1
      writeErrors.append(line)
    } else if line.hasPrefix("read ") {
      readsAnswered += 1
    } else if line.hasPrefix("readv failed: ") {
      readsAnswered += 1
      readError = line
    } else if line.hasPrefix("Pattern verification failed ") {
      foundOtherBytes = true
    }
    return true
  }

  /// The errors of writes, which are then forgotten.
  mutating func takeWriteErrors() -> [String] {
    defer { writeErrors = [] }
    return writeErrors
  }

  /// Whether the last read found the bytes that it was told to expect.
  func lastReadAgrees() throws -> Bool {
    if let readError { throw PeerError("a guest's read: \(readError)") }
    return !foundOtherBytes
  }
}
