internal import Bytes
internal import Glibc

/// A program that works for a tool, and what it says. Its owner waits for it, by `finish` or by `end`.
final class ToolProgram: @unchecked Sendable {
  // Sendable: `outcome` is its owner's, who is one thread; others call `terminate` only.
  private let child: ChildProgram
  private var outcome: (status: Int32, said: String)?
  private let name: String
  private let words: Int32

  private static let wordsMax = 4096

  /// Where `name` is along PATH; nil when it is nowhere.
  static func path(of name: String) -> String? {
    // SAFETY: getenv's text is copied at once; nobody changes the environment here.
    let folders = unsafe getenv("PATH").map { unsafe String(cString: $0) } ?? "/usr/bin:/bin"
    return folders.split(separator: ":").map { "\($0)/\(name)" }.first { unsafe access($0, X_OK) == 0 }
  }

  /// Starts it. `name` is what errors call it.
  init(_ start: ChildProgram.Start, name: String) throws(ServiceError) {
    var ends: (Int32, Int32) = (-1, -1)
    // SAFETY: a pair of Int32 is the array of two that socketpair fills.
    let result = unsafe withUnsafeMutablePointer(to: &ends) { pointer in
      unsafe pointer.withMemoryRebound(to: Int32.self, capacity: 2) { two in
        unsafe socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0, two)
      }
    }
    guard result == 0 else {
      throw .failed("\(name) cannot be started (socketpair: \(SystemError.text(errno)))")
    }
    defer { close(ends.1) }
    self.name = name
    words = ends.0
    var start = start
    start.descriptors += [(ours: ends.1, its: 1), (ours: ends.1, its: 2)]
    do throws(ServiceError) {
      // What it has started itself may go on and hold the other end.
      child = try ChildProgram(start, purpose: name) { [words] in shutdown(words, Int32(SHUT_RD)) }
    } catch {
      close(ends.0)
      throw error
    }
  }

  deinit { close(words) }

  /// Waits for its end; a failure is told in its own words.
  func finish() throws(ServiceError) {
    let (status, said) = wait()
    guard status == 0 else {
      throw .failed(said.isEmpty ? "\(name) ended with status \(status)" : said)
    }
  }

  /// Asks it to end. From any thread.
  func terminate() { child.terminate() }

  /// Ends it, waits for that, and returns what it said.
  func end() -> String {
    child.terminate()
    return wait().said
  }

  private func wait() -> (status: Int32, said: String) {
    if let outcome { return outcome }
    let said = readWords()
    let found = (child.finish(), said)
    outcome = found
    return found
  }

  /// What it says until it ends, in one line.
  private func readWords() -> String {
    var kept: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: Self.wordsMax)
    while true {
      // SAFETY: read fills at most the array that it is lent.
      let count = unsafe chunk.withUnsafeMutableBytes { unsafe read(words, $0.baseAddress, $0.count) }
      if count < 0 && errno == EINTR { continue }
      guard count > 0 else { break }
      kept += chunk[..<count].prefix(Self.wordsMax - kept.count)
    }
    let text = String(decoding: kept, as: UTF8.self)
    return text.split(whereSeparator: \.isNewline).joined(separator: "; ")
  }
}
