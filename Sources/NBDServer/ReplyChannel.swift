internal import Bytes
internal import Glibc
internal import Threads

/// The sending side of a connection. Its reader and its answerer both reply through it.
///
/// A reply is one gathered send, whole, under the lock: replies never mix. The lock is held while the socket
/// blocks, which is meant: it makes this connection's other thread wait, and nobody else's. After a failed
/// send the stream is broken in the middle of a reply, so that nothing is ever sent again.
final class ReplyChannel: @unchecked Sendable {
  // Sendable: `isBroken` is guarded by `lock`.
  private let socket: Socket
  private let pool: PayloadPool
  private let lock = Lock()
  private var isBroken = false

  init(_ socket: Socket, pool: PayloadPool) {
    self.socket = socket
    self.pool = pool
  }

  /// A stretch of a reply: bytes of the header array or of the payload buffer.
  enum Part {
    case header(Range<Int>)
    case payload(Range<Int>)
  }

  /// Sends `bytes`. No later than `deadline` (nanoseconds of `MonotonicClock`) if there is one.
  func send(_ bytes: [UInt8], deadline: UInt64? = nil) throws(SocketError) {
    try unsafe bytes.span.bytes.withUnsafeBytes { (raw) throws(SocketError) in
      // SAFETY: the array is alive during the call, and sending only reads it.
      try unsafe send(
        [iovec(iov_base: UnsafeMutableRawPointer(mutating: raw.baseAddress), iov_len: raw.count)],
        deadline: deadline)
    }
  }

  /// Sends `parts`, in order, of `header` and `payload`.
  func send(_ header: [UInt8], _ payload: AlignedBuffer, _ parts: [Part]) throws(SocketError) {
    try unsafe header.span.bytes.withUnsafeBytes { (raw) throws(SocketError) in
      // SAFETY: the parts lie inside the two owners (rebasing checks), which are alive during the call.
      let vectors = unsafe parts.map { part in
        let bytes =
          switch part {
          case .header(let range): unsafe UnsafeRawBufferPointer(rebasing: raw[range])
          case .payload(let range): unsafe UnsafeRawBufferPointer(rebasing: payload.raw[range])
          }
        return unsafe iovec(
          iov_base: UnsafeMutableRawPointer(mutating: bytes.baseAddress), iov_len: bytes.count)
      }
      try unsafe send(vectors, deadline: nil)
    }
  }

  private func send(_ vectors: [iovec], deadline: UInt64?) throws(SocketError) {
    var vectors = unsafe vectors
    lock.lock()
    defer { lock.unlock() }
    if isBroken { throw .ended }
    do throws(SocketError) {
      try unsafe vectors.withUnsafeMutableBufferPointer { (all) throws(SocketError) in
        try unsafe sendAll(all, deadline: deadline)
      }
    } catch {
      isBroken = true
      socket.shutdown()
      throw error
    }
  }

  private func sendAll(
    _ vectors: UnsafeMutableBufferPointer<iovec>, deadline: UInt64?
  ) throws(SocketError) {
    var first = 0
    while first < vectors.count {
      let rest = unsafe UnsafeMutableBufferPointer(rebasing: vectors[first...])
      guard var sent = try unsafe socket.send(rest) else {
        if pool.isWanted || deadline.map({ $0 <= MonotonicClock.nanoseconds() }) == true {
          throw SocketError(operation: "send", code: ETIMEDOUT)
        }
        continue
      }
      // What went is cut from the front; the next send starts inside a vector when it went in part.
      while first < vectors.count, unsafe sent >= vectors[first].iov_len {
        unsafe sent -= vectors[first].iov_len
        first += 1
      }
      if sent > 0 {
        unsafe vectors[first].iov_base += sent
        unsafe vectors[first].iov_len -= sent
      }
    }
  }
}
