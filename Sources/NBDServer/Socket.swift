internal import Bytes
internal import CSupport
internal import Glibc

/// A system call on a socket that failed.
struct SocketError: Error {
  let operation: String
  /// The errno, or 0 when the peer ended the stream.
  let code: Int32
  /// What is known beyond the errno.
  var detail: String?

  static let ended = SocketError(operation: "recv", code: 0)
  static let timedOut = SocketError(operation: "recv", code: ETIMEDOUT)

  /// Whether the peer simply went away.
  var isPeerGone: Bool { code == 0 || code == ECONNRESET || code == EPIPE }

  var text: String {
    code == 0 ? "the peer closed the connection" : "\(operation): \(detail ?? SystemError.text(code))"
  }
}

/// A connected stream socket, closed with its last reference: whoever polls or sends keeps it open.
final class Socket: @unchecked Sendable {
  // Sendable: `tls` is set by the reader thread before there is another one of the connection; who else holds the socket
  // then only asks whether it is gone, or shuts it down.
  // SAFETY: what a system call is given by address lives until it returns.
  private let descriptor: Int32
  private var tls: TLSSession?

  /// How long a send may make no progress before the sender looks around.
  static let sendStallSeconds = 5
  /// How long a receive waits before the receiver looks around. A time limit of the socket costs nothing while data
  /// comes; polling before each receive would cost a system call.
  static let receiveStallMilliseconds = 100

  /// Takes `descriptor` over.
  init(owning descriptor: Int32) {
    self.descriptor = descriptor
    var stall = timeval(tv_sec: Self.sendStallSeconds, tv_usec: 0)
    unsafe setsockopt(
      descriptor, SOL_SOCKET, SO_SNDTIMEO, &stall, socklen_t(MemoryLayout<timeval>.size))
    stall = timeval(tv_sec: 0, tv_usec: Self.receiveStallMilliseconds * 1000)
    unsafe setsockopt(
      descriptor, SOL_SOCKET, SO_RCVTIMEO, &stall, socklen_t(MemoryLayout<timeval>.size))
  }

  deinit { close(descriptor) }

  /// Ends both directions: blocked calls return, and the peer sees the end. The descriptor stays.
  func shutdown() {
    _ = Glibc.shutdown(descriptor, Int32(SHUT_RDWR))
  }

  /// Whether the peer has closed its end or the connection is broken, even if data is still to be read.
  var isGone: Bool {
    var entry = pollfd(fd: descriptor, events: spw_POLLRDHUP, revents: 0)
    let gone = Int16(POLLHUP) | Int16(POLLERR) | spw_POLLRDHUP
    return unsafe poll(&entry, 1, 0) > 0 && entry.revents & gone != 0
  }

  /// Speaks TLS from now on, or throws: by `deadline` (nanoseconds of `MonotonicClock`) at the latest. For the reader
  /// thread, while it is alone and all is sent that was to be sent in the clear.
  func secure(_ credentials: TLSCredentials, deadline: UInt64) throws(SocketError) {
    let session = try TLSSession(credentials, on: descriptor)
    try session.handshake(deadline: deadline)
    tls = session
  }

  /// Ends a conversation that both sides want to end: inside TLS the end has a message of its own.
  func finish() {
    tls?.sayGoodbye()
    shutdown()
  }

  /// Waits until something can be read. `deadline` is in nanoseconds left.
  func waitReadable(nanoseconds: UInt64) throws(SocketError) {
    if tls?.hasPending == true { return }
    var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
    let count = unsafe poll(&entry, 1, Int32(clamping: (nanoseconds + 999_999) / 1_000_000))
    if count == 0 { throw .timedOut }
    if count < 0, errno != EINTR { throw SocketError(operation: "poll", code: errno) }
  }

  /// Waits for ever until something can be read, or the socket is shut down.
  func waitReadable() throws(SocketError) {
    var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
    while unsafe poll(&entry, 1, -1) < 0 {
      if errno != EINTR { throw SocketError(operation: "poll", code: errno) }
    }
  }

  /// Receives into `first` and, when that is full, `second`. Returns how many bytes came, at least one, or nil when none
  /// did for `receiveStallMilliseconds`.
  func receive(
    _ first: UnsafeMutableRawBufferPointer, _ second: UnsafeMutableRawBufferPointer
  ) throws(SocketError) -> Int? {
    if let tls { return try unsafe tls.receive(first, second, milliseconds: Self.receiveStallMilliseconds) }
    while true {
      // SAFETY: both buffers are the caller's, alive and unused by others until the call returns.
      let count = unsafe withUnsafeTemporaryAllocation(of: iovec.self, capacity: 2) { vectors in
        unsafe vectors.initializeElement(
          at: 0, to: iovec(iov_base: first.baseAddress, iov_len: first.count))
        unsafe vectors.initializeElement(
          at: 1, to: iovec(iov_base: second.baseAddress, iov_len: second.count))
        return unsafe readv(descriptor, vectors.baseAddress, 2)
      }
      if count > 0 { return count }
      if count == 0 { throw .ended }
      if errno == EAGAIN { return nil }
      if errno != EINTR { throw SocketError(operation: "recv", code: errno) }
    }
  }

  /// Sends some of `vectors` (at most IOV_MAX of them). Returns how many bytes went, or nil when none did for
  /// `sendStallSeconds`.
  func send(_ vectors: UnsafeMutableBufferPointer<iovec>) throws(SocketError) -> Int? {
    if let tls { return try unsafe tls.send(vectors, seconds: Self.sendStallSeconds) }
    var message = unsafe msghdr()
    unsafe message.msg_iov = vectors.baseAddress
    unsafe message.msg_iovlen = Int(min(vectors.count, 1024))
    while true {
      // SAFETY: the vectors and what they point to are the caller's until the call returns.
      let count = unsafe sendmsg(descriptor, &message, Int32(MSG_NOSIGNAL))
      if count >= 0 { return count }
      if errno == EAGAIN { return nil }
      if errno != EINTR { throw SocketError(operation: "send", code: errno) }
    }
  }
}
