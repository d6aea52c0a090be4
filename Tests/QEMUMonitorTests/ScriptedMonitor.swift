import TestKit
import Foundation
import Glibc
import Peers

/// A monitor that follows a script: it serves one client on a unix socket, on a thread of its own.
final class ScriptedMonitor: Sendable {
  enum Step: Sendable {
    /// Send this line.
    case say(String)
    /// Read a line, whatever it is.
    case hear
    /// Hold the connection open and say nothing more, until the client leaves.
    case keepSilent
  }

  /// What both dialects begin with.
  static let opening: [Step] = [
    .say(#"{"QMP": {"version": {"package": "scripted"}, "capabilities": []}}"#), .hear,
    .say(#"{"return": {}, "id": 1}"#),
  ]

  let path: String
  private let directory: TemporaryDirectory
  private let heardLines = HeardLines()

  /// The lines heard so far.
  var heard: [String] { heardLines.all }

  /// Listens; after the last step it hangs up.
  init(_ script: [Step]) throws {
    directory = try TemporaryDirectory()
    path = directory.file("monitor.sock")
    let listener = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: Array(path.utf8)) }
    let bound = withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        bind(listener, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
    guard bound == 0, listen(listener, 1) == 0 else { throw PeerError("cannot listen at \(path)") }
    Thread.detachNewThread { [heardLines] in
      let client = FileHandle(fileDescriptor: accept(listener, nil, nil), closeOnDealloc: true)
      close(listener)
      for step in script {
        switch step {
        case .say(let line): client.write(Data("\(line)\r\n".utf8))
        case .hear:
          // Who has left hears nothing more.
          guard let line = readLine(client) else { return }
          heardLines.add(line)
        case .keepSilent: _ = client.readDataToEndOfFile()
        }
      }
    }
  }
}

/// The next line; nil when the client has left.
private func readLine(_ client: FileHandle) -> String? {
  var line: [UInt8] = []
  while let byte = client.readData(ofLength: 1).first {
    if byte == UInt8(ascii: "\n") { return String(decoding: line, as: UTF8.self) }
    line.append(byte)
  }
  return nil
}

private final class HeardLines: @unchecked Sendable {
  // Sendable: `lock` guards the array.
  private let lock = NSLock()
  private var lines: [String] = []

  var all: [String] { lock.withLock { lines } }
  func add(_ line: String) { lock.withLock { lines.append(line) } }
}
