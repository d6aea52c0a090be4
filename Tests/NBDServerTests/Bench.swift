import Bytes
import Glibc
import NBDServer
import Threads

/// A server on a socket file of its own, for one test.
final class Bench {
  let directory: String
  let path: String
  let server: Server
  private let lines: Lines

  /// The log lines of a server.
  final class Lines: @unchecked Sendable {
    // Sendable: guarded by `lock`.
    private let lock = Lock()
    private let changed: Condition
    private var all: [String] = []

    init() { changed = Condition(lock) }

    func add(_ line: String) {
      lock.withLock {
        all.append(line)
        changed.broadcast()
      }
    }

    /// How many lines contain `part`.
    func count(of part: String) -> Int { lock.withLock { all.count { $0.contains(part) } } }

    /// Waits until a line contains `part`. False after 20 seconds.
    func wait(for part: String) -> Bool {
      let deadline = MonotonicClock.nanoseconds() + 20_000_000_000
      return lock.withLock {
        while !all.contains(where: { $0.contains(part) }) {
          if !changed.wait(until: deadline) { return false }
        }
        return true
      }
    }
  }

  init(_ exports: any ExportDirectory, _ change: (inout ServerOptions) -> Void = { _ in }) throws {
    directory = Self.temporaryDirectory()
    path = directory + "/sock"
    var options = ServerOptions()
    change(&options)
    let lines = Lines()
    self.lines = lines
    server = Server(options: options) { lines.add("\($0): \($1)") }
    _ = try server.listen(on: .unix(path: path), directory: exports)
  }

  /// Stops the server. Every test ends with it.
  func close() {
    server.stop()
    rmdir(directory)
  }

  static func temporaryDirectory() -> String {
    var template = Array("/tmp/spillway-nbd-XXXXXX".utf8CString)
    return String(cString: mkdtemp(&template))
  }

  func client() throws -> RawClient { try RawClient(unix: path) }

  /// A client that has negotiated.
  func readyClient(structured: Bool = false) throws -> RawClient {
    let client = try client()
    try client.go(structured: structured)
    return client
  }

  func wait(forLog part: String) -> Bool { lines.wait(for: part) }

  func logCount(of part: String) -> Int { lines.count(of: part) }
}
