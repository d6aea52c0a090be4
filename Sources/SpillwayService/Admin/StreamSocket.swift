internal import Bytes
internal import CSupport
internal import Glibc
internal import NBDServer

/// A unix stream socket, closed with the last reference to it.
///
/// One thread reads; any thread may call `shutdown`, which ends that read. The number stays ours as long as
/// anyone holds the object, so a late `shutdown` never hits somebody else's file.
package final class StreamSocket: Sendable {
  private let descriptor: Int32

  private init(descriptor: Int32) { self.descriptor = descriptor }

  deinit { close(descriptor) }

  /// A socket that listens at `path`, for the owner only. What a dead process left at `path` is replaced.
  package static func listen(path: String, backlog: Int32) throws(ServiceError) -> StreamSocket {
    try removeLeftover(path)
    let socket = try make()
    // On Linux the file gets the mode of the socket: it is never open to others, not even for an instant.
    fchmod(socket.descriptor, 0o600)
    let code = unsafe try withAddress(path) { address, length in
      // SAFETY: bind reads the address during the call only.
      unsafe bind(socket.descriptor, address, length)
    }
    guard code == 0 else { throw cannot("listen at \(path)", errno) }
    guard Glibc.listen(socket.descriptor, backlog) == 0 else { throw cannot("listen at \(path)", errno) }
    return socket
  }

  /// A connection to whoever listens at `path`.
  package static func connect(path: String) throws(ServiceError) -> StreamSocket {
    let socket = try make()
    let code = try socket.connect(to: path)
    guard code == 0 else { throw cannot("reach \(path)", code) }
    return socket
  }

  /// A descriptor of the same socket for somebody else to take over.
  func duplicate() throws(ServiceError) -> Int32 {
    defer { withExtendedLifetime(self) {} }
    let copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 0)
    guard copy >= 0 else { throw Self.cannot("use a socket", errno) }
    return copy
  }

  /// Whether anybody listens at `path`. Costs a connection, which is closed again.
  static func isListening(at path: String) -> Bool {
    do throws(ServiceError) {
      _ = try connect(path: path)
      return true
    } catch {
      return false
    }
  }

  /// The user of the process at the other end (of who listened, if we connected); nil when the system does not say.
  var peerUser: uid_t? {
    defer { withExtendedLifetime(self) {} }
    let user = spw_peer_user(descriptor)
    return user == uid_t.max ? nil : user
  }

  /// Connects to whoever listens at `path`. The errno that says why not, or 0.
  private func connect(to path: String) throws(ServiceError) -> Int32 {
    // A socket of which only the number is still needed would be closed.
    defer { withExtendedLifetime(self) {} }
    return unsafe try Self.withAddress(path) { address, length in
      // SAFETY: connect reads the address during the call only.
      unsafe Glibc.connect(descriptor, address, length) == 0 ? 0 : errno
    }
  }

  /// Removes the socket at `path` if nobody listens there any more; a live one, or another kind of file,
  /// is an error.
  package static func removeLeftover(_ path: String) throws(ServiceError) {
    var information = stat()
    // SAFETY: lstat fills the structure it is given and keeps nothing.
    guard unsafe lstat(path, &information) == 0 else { return }
    guard information.st_mode & S_IFMT == S_IFSOCK else {
      throw .failed("\(path) is there and is no socket; remove it or choose another path")
    }
    switch try make().connect(to: path) {
    case 0: throw .failed("another process listens at \(path); stop it or choose another path")
    case ECONNREFUSED: remove(path)
    default: break  // bind, which comes next, says what is wrong
    }
  }

  /// Removes the socket's file at `path`; that it is gone already is fine.
  static func remove(_ path: String) {
    // SAFETY: unlink reads the path during the call only.
    unsafe unlink(path)
  }

  /// Waits for a client. Nil after `shutdown`.
  package func accept() -> StreamSocket? {
    while true {
      let client = Glibc.accept(descriptor, nil, nil)
      if client >= 0 {
        _ = fcntl(client, F_SETFD, FD_CLOEXEC)
        return StreamSocket(descriptor: client)
      }
      switch errno {
      case EINTR, ECONNABORTED: continue
      case EMFILE, ENFILE, ENOBUFS, ENOMEM:
        // Passes when another client leaves; without the pause this would spin.
        poll(nil, 0, 100)
      default: return nil
      }
    }
  }

  /// Gives up on a client that does not read its replies for `seconds`.
  package func limitWrites(toSeconds seconds: Int) {
    var limit = timeval(tv_sec: seconds, tv_usec: 0)
    // SAFETY: setsockopt reads the value during the call only.
    unsafe setsockopt(
      descriptor, SOL_SOCKET, SO_SNDTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
  }

  /// Appends what arrives next to `buffer`, at most 4 KiB. False at the end of the stream or on an error.
  package func receive(into buffer: inout [UInt8]) -> Bool {
    var chunk = [UInt8](repeating: 0, count: 4096)
    while true {
      // SAFETY: recv writes at most the chunk's own bytes, during the call.
      let count = unsafe chunk.withUnsafeMutableBytes {
        unsafe recv(descriptor, $0.baseAddress, $0.count, 0)
      }
      if count < 0 && errno == EINTR { continue }
      guard count > 0 else { return false }
      buffer += chunk[..<count]
      return true
    }
  }

  /// Sends all of `bytes`. False when the other side is gone or does not read.
  package func send(_ bytes: [UInt8]) -> Bool {
    var rest = bytes[...]
    while !rest.isEmpty {
      // SAFETY: send reads at most the array's own bytes, during the call.
      let count = unsafe rest.withUnsafeBytes {
        unsafe Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
      }
      if count < 0 && errno == EINTR { continue }
      guard count > 0 else { return false }
      rest = rest.dropFirst(count)
    }
    return true
  }

  /// Ends reading (and accepting) here; replies under way still go out.
  package func shutdownReading() { Glibc.shutdown(descriptor, Int32(SHUT_RD)) }

  /// Ends the connection, or the listening.
  package func shutdown() { Glibc.shutdown(descriptor, Int32(SHUT_RDWR)) }

  private static func make() throws(ServiceError) -> StreamSocket {
    let kind = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
    let descriptor = socket(AF_UNIX, kind, 0)
    guard descriptor >= 0 else { throw cannot("make a socket", errno) }
    return StreamSocket(descriptor: descriptor)
  }

  private static func cannot(_ what: String, _ number: Int32) -> ServiceError {
    .failed("cannot \(what) (\(SystemError.text(number)))")
  }

  private static func withAddress(
    _ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32
  ) throws(ServiceError) -> Int32 {
    guard path.utf8.count <= ListenAddress.unixPathByteCountMax else {
      throw .usage("the socket path \(path) is longer than \(ListenAddress.unixPathByteCountMax) bytes")
    }
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    // SAFETY: the path is shorter than the field (checked above) and the rest stays zero, which ends it.
    unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: path.utf8) }
    // SAFETY: sockaddr_un begins with the fields of sockaddr; the pointer lives for the call.
    return unsafe withUnsafePointer(to: &address) { pointer in
      unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        unsafe body($0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
  }
}
