import Bytes
import NBDSource
import Threads

/// Reads on threads of their own, which the test waits for.
final class Readers: @unchecked Sendable {
  // Sendable: `lock` guards what the threads write.
  private let lock = Lock()
  private let someEnded: Condition
  private var results: [Result<[UInt8], SourceError>] = []
  private var threads: [WorkerThread] = []

  /// Starts a thread for each of `ranges`.
  init(_ ranges: [ByteRange], of source: NBDSource) throws {
    someEnded = Condition(lock)
    for range in ranges {
      let thread = WorkerThread(name: "reader") {
        let result = Result { () throws(SourceError) in try source.bytes(of: range) }
        self.lock.withLock { self.results.append(result) }
        self.someEnded.signal()
      }
      guard let thread else { throw SourceError(message: "no thread is left") }
      threads.append(thread)
    }
  }

  /// Their results, in the order in which they came, when all have ended; those of a minute if some never end.
  func join() -> [Result<[UInt8], SourceError>] {
    let deadline = MonotonicClock.nanoseconds() + 60_000_000_000
    let ended = lock.withLock {
      while results.count < threads.count, someEnded.wait(until: deadline) {}
      return results
    }
    guard ended.count == threads.count else { return ended }
    for thread in threads { thread.join() }
    return ended
  }
}

extension NBDSource {
  /// The bytes of `range`.
  func bytes(of range: ByteRange) throws(SourceError) -> [UInt8] {
    var bytes = [UInt8](repeating: 0xAA, count: Int(range.count))
    var span = bytes.mutableSpan
    var raw = span.mutableBytes
    try read(range, into: &raw)
    return bytes
  }
}

/// What nbdkit's pattern plugin has in `range`: every eight bytes are their own offset, big-endian.
func pattern(_ range: ByteRange) -> [UInt8] {
  // Word by word, for tests are built without optimisation.
  let words = (range.start / 8..<(range.end + 7) / 8).map { ($0 * 8).bigEndian }
  return words.withUnsafeBytes { bytes in
    let first = Int(range.start % 8)
    return Array(bytes[first..<first + Int(range.count)])
  }
}
