import QEMUMonitor

extension QEMUMachine {
  /// Has the guest write `byteCount` bytes of `pattern` at `offset`, and does not wait for that.
  ///
  /// A pattern of zero is a write of zero bytes; `startZeroing` is the guest's WRITE_ZEROES.
  package func startWrite(
    _ pattern: UInt8, at offset: UInt64, _ byteCount: UInt64, disk: Int = 0
  ) throws {
    try send("aio_write -P \(pattern) \(offset) \(byteCount)", to: disk)
    requests.sentWrite()
  }

  /// Has the guest zero `byteCount` bytes at `offset` without sending any, and does not wait for that.
  package func startZeroing(at offset: UInt64, _ byteCount: UInt64, disk: Int = 0) throws {
    try send("aio_write -z \(offset) \(byteCount)", to: disk)
    requests.sentWrite()
  }

  /// Waits until every write that was started has its answer; returns the errors that the guest got since the last
  /// time, in qemu's words.
  package func waitForWrites(within limit: Duration = .seconds(60)) throws -> [String] {
    try hear(until: { $0.unansweredWrites == 0 }, "answers to a guest's writes", within: limit)
    return requests.takeWriteErrors()
  }

  /// How many writes are without an answer at this moment.
  package var unansweredWrites: Int {
    while requests.hear(child, within: .zero) {}
    return requests.unansweredWrites
  }

  /// Has the guest write `byteCount` bytes of `pattern` at `offset`; an error if it cannot.
  package func write(
    _ pattern: UInt8, at offset: UInt64, _ byteCount: UInt64, disk: Int = 0,
    within limit: Duration = .seconds(60)
  ) throws {
    try startWrite(pattern, at: offset, byteCount, disk: disk)
    let errors = try waitForWrites(within: limit)
    guard errors.isEmpty else {
      throw PeerError("a guest's write of \(byteCount) bytes at \(offset): \(errors.joined(separator: "; "))")
    }
  }

  /// Whether the guest, reading its live disk, finds `byteCount` bytes of `pattern` at `offset`.
  package func reads(
    _ pattern: UInt8, at offset: UInt64, _ byteCount: UInt64, disk: Int = 0
  ) throws -> Bool {
    requests.sentRead()
    try send("aio_read -P \(pattern) \(offset) \(byteCount)", to: disk)
    try hear(until: { $0.unansweredReads == 0 }, "the answer to a guest's read", within: .seconds(60))
    return try requests.lastReadAgrees()
  }

  private func send(_ command: String, to disk: Int) throws {
    let line = "qemu-io -d \(device(disk)) \"\(command)\""
    let answer = try monitor.execute(
      "human-monitor-command", arguments: ["command-line": .string(line)])
    guard answer.string == "" else { throw PeerError("\(line): \(answer)") }
  }

  private func hear(
    until isEnough: (GuestRequests) -> Bool, _ awaited: String, within limit: Duration
  ) throws {
    let deadline = ContinuousClock.now + limit
    while !isEnough(requests) {
      let left = ContinuousClock.now.duration(to: deadline)
      guard left > .zero, requests.hear(child, within: left) else {
        let said = child.errorLines.suffix(20).joined(separator: "\n")
        throw PeerError("\(child.command): never said \(awaited)\n\(said)")
      }
    }
  }
}
