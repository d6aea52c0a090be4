internal import Bytes
internal import CGnuTLS
internal import Glibc
internal import Threads

// TLS on one socket.
//
// GnuTLS allows one thread to send while another receives only as long as neither has to do the other's work, and a
// client's key update makes it do so. Hence every call of GnuTLS for a session is made under its lock, and none blocks:
// the socket is non-blocking, who cannot go on lets go of the lock and polls. So a reader that waits for a client keeps no
// reply back, and a reply that the client does not take keeps nobody from receiving.
//
// Replies are gathered into records: one record, one system call, for what fits into 16 KiB.

/// The encrypted side of a socket.
@safe final class TLSSession: @unchecked Sendable {
  // Sendable: `session` is used under `lock` alone; `record` and `pendingByteCount` are the sender's, of whom there is one
  // at a time (ReplyChannel's lock).
  // SAFETY: `session` lives from init to deinit, as do the credentials that it refers to; each call for it is made under `lock`
  // and keeps no pointer that it is given.
  private let session: gnutls_session_t
  private let credentials: TLSCredentials
  private let descriptor: Int32
  private let lock = Lock()
  /// What is being sent: an idle connection has none.
  private var record: AlignedBuffer?
  /// How many bytes the record has that GnuTLS took and the socket did not, or not all of.
  private var pendingByteCount = 0

  /// The most bytes of a record.
  private static let recordByteCount = 16 << 10

  /// A session on `descriptor`, which stays the caller's and becomes non-blocking.
  init(_ credentials: TLSCredentials, on descriptor: Int32) throws(SocketError) {
    var made: gnutls_session_t?
    let flags = UInt32(GNUTLS_SERVER) | UInt32(GNUTLS_NO_SIGNAL) | UInt32(GNUTLS_NONBLOCK)
    let code = unsafe gnutls_init(&made, flags)
    guard code >= 0, let session = unsafe made else { throw Self.error(code, "TLS") }
    unsafe self.session = session
    self.credentials = credentials
    self.descriptor = descriptor
    let applied = unsafe credentials.apply(to: session)
    if applied < 0 { throw Self.error(applied, "TLS") }
    let status = fcntl(descriptor, F_GETFL)
    if status < 0 || fcntl(descriptor, F_SETFL, status | O_NONBLOCK) < 0 {
      throw SocketError(operation: "fcntl", code: errno)
    }
    unsafe gnutls_transport_set_int2(session, descriptor, descriptor)
  }

  // SAFETY: nobody has a reference any more; the credentials are released after it.
  deinit { unsafe gnutls_deinit(session) }

  /// What a GnuTLS code means.
  // SAFETY: GnuTLS's texts are constants, and every code has one.
  static func text(_ code: Int32) -> String { unsafe String(cString: gnutls_strerror(code)) }

  /// Agrees with the client on keys, no later than `deadline` (nanoseconds of `MonotonicClock`). A client that is not
  /// let in is told so as TLS does.
  func handshake(deadline: UInt64) throws(SocketError) {
    while true {
      let (code, wantsToSend) = lock.withLock {
        unsafe (gnutls_handshake(session), gnutls_record_get_direction(session) == 1)
      }
      if code == GNUTLS_E_SUCCESS { return }
      guard gnutls_error_is_fatal(code) == 0 else {
        _ = lock.withLock { unsafe gnutls_alert_send_appropriate(session, code) }
        throw Self.error(code, "TLS handshake")
      }
      let now = MonotonicClock.nanoseconds()
      if now >= deadline { throw .timedOut }
      guard code == GNUTLS_E_AGAIN else { continue }
      if try !wait(for: wantsToSend ? POLLOUT : POLLIN, nanoseconds: deadline - now) { throw .timedOut }
    }
  }

  /// Whether something was received that `receive` gives without asking the socket.
  var hasPending: Bool { lock.withLock { unsafe gnutls_record_check_pending(session) > 0 } }

  /// Receives into `first` and then `second`, as `Socket.receive` does.
  func receive(
    _ first: UnsafeMutableRawBufferPointer, _ second: UnsafeMutableRawBufferPointer, milliseconds: Int
  ) throws(SocketError) -> Int? {
    var count = 0
    while count < first.count {
      // SAFETY: count < first.count; the slice lies inside the caller's buffer.
      let rest = unsafe UnsafeMutableRawBufferPointer(rebasing: first[count...])
      guard let got = try unsafe receiveOnce(rest, wait: count == 0 ? milliseconds : 0) else {
        return count == 0 ? nil : count
      }
      count += got
    }
    // What follows is taken along if it is decrypted already. A caller that wants nothing else waits for it.
    guard second.count > 0, count == 0 || hasPending else { return count }
    guard let got = try unsafe receiveOnce(second, wait: count == 0 ? milliseconds : 0) else {
      return count == 0 ? nil : count
    }
    return count + got
  }

  private func receiveOnce(
    _ target: UnsafeMutableRawBufferPointer, wait milliseconds: Int
  ) throws(SocketError) -> Int? {
    var hasWaited = false
    while true {
      let code = lock.withLock { unsafe gnutls_record_recv(session, target.baseAddress, target.count) }
      if code > 0 { return code }
      if code == 0 || code == Int(GNUTLS_E_PREMATURE_TERMINATION) { throw .ended }
      if code == Int(GNUTLS_E_AGAIN) {
        if hasWaited || milliseconds == 0 { return nil }
        hasWaited = try wait(for: POLLIN, nanoseconds: UInt64(milliseconds) * 1_000_000)
        if !hasWaited { return nil }
        continue
      }
      // A client that wants to negotiate anew (TLS 1.2) is a client that no program here is.
      if gnutls_error_is_fatal(Int32(code)) != 0 || code == Int(GNUTLS_E_REHANDSHAKE) {
        throw Self.error(Int32(code), "TLS")
      }
    }
  }

  /// Sends some of `vectors`, as `Socket.send` does. What it did not return as sent has to be asked for again, unchanged.
  func send(_ vectors: UnsafeMutableBufferPointer<iovec>, seconds: Int) throws(SocketError) -> Int? {
    let isNew = pendingByteCount == 0
    let record = self.record ?? AlignedBuffer(byteCount: Self.recordByteCount)
    self.record = record
    if isNew { unsafe pendingByteCount = gather(vectors, into: record) }
    var code = lock.withLock {
      // SAFETY: GnuTLS copies what it takes; nil and 0 ask it to go on with what it has taken.
      unsafe gnutls_record_send(session, isNew ? record.raw.baseAddress : nil, isNew ? pendingByteCount : 0)
    }
    while code == Int(GNUTLS_E_AGAIN) || code == Int(GNUTLS_E_INTERRUPTED) {
      guard try wait(for: POLLOUT, nanoseconds: UInt64(seconds) * 1_000_000_000) else { return nil }
      code = lock.withLock { unsafe gnutls_record_send(session, nil, 0) }
    }
    guard code > 0 else { throw Self.error(Int32(code), "TLS") }
    pendingByteCount = 0
    self.record = nil
    return code
  }

  /// Copies as much of `vectors` as a record holds.
  private func gather(
    _ vectors: UnsafeMutableBufferPointer<iovec>, into record: AlignedBuffer
  ) -> Int {
    var count = 0
    for index in vectors.indices {
      let vector = unsafe vectors[index]
      let part = unsafe min(vector.iov_len, Self.recordByteCount - count)
      guard part > 0 else { break }
      // SAFETY: `part` bytes are in the vector and free in the record.
      unsafe record.raw.baseAddress!.advanced(by: count).copyMemory(from: vector.iov_base, byteCount: part)
      count += part
    }
    return count
  }

  /// Tells the client that nothing follows, if the socket takes it now.
  func sayGoodbye() {
    _ = lock.withLock { unsafe gnutls_bye(session, GNUTLS_SHUT_WR) }
  }

  /// False when nothing happened in time.
  private func wait(for event: Int32, nanoseconds: UInt64) throws(SocketError) -> Bool {
    var entry = pollfd(fd: descriptor, events: Int16(event), revents: 0)
    let count = unsafe poll(&entry, 1, Int32(clamping: (nanoseconds + 999_999) / 1_000_000))
    if count < 0, errno != EINTR { throw SocketError(operation: "poll", code: errno) }
    return count != 0
  }

  private static func error(_ code: Int32, _ operation: String) -> SocketError {
    // The socket's own failures hide behind two codes; errno is then what it was.
    code == GNUTLS_E_PULL_ERROR || code == GNUTLS_E_PUSH_ERROR
      ? SocketError(operation: operation, code: errno)
      : SocketError(operation: operation, code: EPROTO, detail: text(code))
  }
}
