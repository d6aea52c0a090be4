internal import Bytes
internal import CSupport
internal import Glibc
internal import QEMUMonitor
internal import Threads

/// A session's one conversation with the monitor, which several threads have in turn.
///
/// A connection that breaks is made anew for 5 seconds. What was being asked then fails all the same unless it may be asked
/// twice: nobody knows whether a command was carried out.
final class SharedMonitor: @unchecked Sendable {
  // Sendable: `monitor` and `isLost` are guarded by `lock`.
  private let lock = Lock()
  private let monitor: any Monitor
  private var lost: QMPError?
  /// What this qemu understands.
  let schema: QEMUSchema

  private static let patienceNanoseconds: UInt64 = 5_000_000_000

  /// Takes over a conversation.
  init(_ monitor: any Monitor) throws(QMPError) {
    self.monitor = monitor
    schema = try monitor.schema()
  }

  /// Runs `body`, nobody else meanwhile.
  func use<Value>(_ body: (any Monitor) throws(QMPError) -> Value) throws(QMPError) -> Value {
    try lock.withLock { () throws(QMPError) in
      if let lost { throw lost }
      do throws(QMPError) { return try body(monitor) } catch {
        if error.isLoss { try reconnect(after: error) }
        throw error
      }
    }
  }

  /// As `use`, for questions: they are asked again on a new connection.
  func ask<Value>(_ body: (any Monitor) throws(QMPError) -> Value) throws(QMPError) -> Value {
    do throws(QMPError) { return try use(body) } catch {
      guard error.isLoss else { throw error }
      return try use(body)
    }
  }

  /// Why there is nobody to talk to any more; nil while there is.
  var loss: QMPError? { lock.withLock { lost } }

  private func reconnect(after first: QMPError) throws(QMPError) {
    let deadline = MonotonicClock.nanoseconds() + Self.patienceNanoseconds
    while true {
      do throws(QMPError) { return try monitor.reconnect() } catch {
        // A socket that nobody listens on any more is that of a qemu that has ended.
        guard MonotonicClock.nanoseconds() < deadline, !error.isGone else {
          lost = first
          throw first
        }
        poll(nil, 0, 100)
      }
    }
  }
}

extension QMPError {
  /// Whether the conversation is over, rather than a command refused.
  var isLoss: Bool {
    switch self {
    case .closed, .socketFailed, .cannotConnect, .malformed: true
    default: false
    }
  }

  /// Whether nobody is there at all.
  fileprivate var isGone: Bool {
    if case .cannotConnect(_, let number) = self { number == ECONNREFUSED || number == ENOENT } else { false }
  }
}

extension MonitorAddress {
  /// Connects to the monitor, whose greeting may take as long as `patience`.
  func connect(patience: Duration = .seconds(30)) throws(ServiceError) -> SharedMonitor {
    do throws(QMPError) {
      switch self {
      case .qmp(let path):
        let connection = try QMPConnection(connectingTo: path, timeout: patience)
        // Commands are another matter: they may take as long as ever.
        connection.timeout = .seconds(30)
        return try SharedMonitor(connection)
      case .libvirt(let domain): return try SharedMonitor(LibvirtMonitor(domain: domain))
      }
    } catch {
      throw .failed("\(error)")
    }
  }

  /// Whether there is nobody at all any more.
  var isGone: Bool {
    guard case .qmp(let path) = self else { return false }
    return !StreamSocket.isListening(at: path)
  }

  /// The user that qemu runs as, if that can be told.
  var user: uid_t? {
    switch self {
    case .qmp(let path): return Self.listener(at: path)
    case .libvirt(let domain): return Self.owner(ofProcessIn: "/run/libvirt/qemu/\(domain).pid")
    }
  }

  /// The user of whoever listens at `path`. Costs a connection, which is closed again.
  private static func listener(at path: String) -> uid_t? {
    do throws(ServiceError) { return try StreamSocket.connect(path: path).peerUser } catch { return nil }
  }

  private static func owner(ofProcessIn file: String) -> uid_t? {
    // SAFETY: open reads the path, read writes the buffer's own bytes, stat fills the structure.
    let descriptor = unsafe spw_open(file, O_RDONLY | O_CLOEXEC, 0)
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    var buffer = [UInt8](repeating: 0, count: 32)
    let count = unsafe buffer.withUnsafeMutableBytes { unsafe read(descriptor, $0.baseAddress, $0.count) }
    let digits = buffer.prefix(max(count, 0)).prefix { (48...57).contains($0) }
    var information = stat()
    guard unsafe stat("/proc/\(String(decoding: digits, as: UTF8.self))", &information) == 0 else {
      return nil
    }
    return information.st_uid
  }
}
