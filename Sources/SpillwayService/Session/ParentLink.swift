internal import Bytes
internal import CSupport
internal import Glibc
internal import Threads

// The socket pair between a session's parent and its engine. Each side learns from it that the other is gone, whatever
// ended it; besides, the engine sends one line through it when it is ready.

/// The parent's end.
final class EngineLink: @unchecked Sendable {
  // Sendable: `said` and `isOver` are guarded by `lock`; the thread is set once by `init`.
  private let descriptor: Int32
  private let lock = Lock()
  private let changed: Condition
  private var said: [UInt8] = []
  private var isOver = false
  private var reader: WorkerThread?

  /// Reads from `descriptor`, which it takes over.
  init(_ descriptor: Int32) throws(ServiceError) {
    self.descriptor = descriptor
    changed = Condition(lock)
    reader = WorkerThread(name: "engine-link") { [self] in read() }
    guard reader != nil else {
      close(descriptor)
      throw .failed("no thread is left to watch the engine; raise the limit of processes")
    }
  }

  private func read() {
    var chunk = [UInt8](repeating: 0, count: 4096)
    while true {
      // SAFETY: recv writes at most the chunk's own bytes, during the call.
      let count = unsafe chunk.withUnsafeMutableBytes { unsafe recv(descriptor, $0.baseAddress, $0.count, 0) }
      if count < 0 && errno == EINTR { continue }
      lock.withLock {
        if count > 0 { said += chunk[..<count] } else { isOver = true }
        changed.broadcast()
      }
      if count <= 0 { return }
    }
  }

  /// Waits until the engine has said its line, which is returned, or its end has come, or `deadline` (nanoseconds of
  /// MonotonicClock): then nil.
  func waitUntilReady(deadline: UInt64) -> String? {
    lock.withLock {
      while true {
        if let end = said.firstIndex(of: UInt8(ascii: "\n")) {
          return String(decoding: said[..<end], as: UTF8.self)
        }
        if isOver || MonotonicClock.nanoseconds() >= deadline { return nil }
        _ = changed.wait(until: deadline)
      }
    }
  }

  /// Closes our end and joins the thread. Call it when the engine is gone, or is to learn that we are.
  func end() {
    Glibc.shutdown(descriptor, Int32(SHUT_RDWR))
    reader?.join()
    close(descriptor)
  }

  /// A connected pair: ours and the engine's.
  static func pair() throws(ServiceError) -> (ours: Int32, its: Int32) {
    var ends: [Int32] = [0, 0]
    // SAFETY: socketpair fills the two numbers.
    guard unsafe socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0, &ends) == 0
    else { throw .failed("cannot make a socket pair (\(SystemError.text(errno)))") }
    return (ends[0], ends[1])
  }
}

/// The engine's end.
final class ParentLink: Sendable {
  private let descriptor: Int32
  private let watcher: WorkerThread

  /// Watches the inherited `descriptor`; `onEnd` runs once, on a thread of ours, when the parent is gone.
  init(_ descriptor: Int32, onEnd: @escaping @Sendable () -> Void) throws(ServiceError) {
    self.descriptor = descriptor
    _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
    let thread = WorkerThread(name: "parent-link") {
      var byte: UInt8 = 0
      // The parent sends nothing: whatever ends this wait is its end.
      // SAFETY: recv writes at most the one byte.
      while unsafe recv(descriptor, &byte, 1, 0) < 0 && errno == EINTR {}
      onEnd()
    }
    guard let thread else { throw .failed("no thread is left to watch the parent") }
    watcher = thread
  }

  /// Tells the parent `line`.
  func say(_ line: String) {
    let bytes = Array((line + "\n").utf8)
    // SAFETY: send reads the bytes during the call only. A parent that is gone is noticed by the watcher.
    _ = unsafe bytes.withUnsafeBytes {
      unsafe send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
    }
  }

  /// Ends the watch.
  func end() {
    Glibc.shutdown(descriptor, Int32(SHUT_RDWR))
    watcher.join()
  }
}
