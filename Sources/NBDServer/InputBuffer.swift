internal import Bytes
internal import NBDProtocol
internal import Threads

/// What a connection has received and not yet dealt with: headers, and the beginnings of payloads.
///
/// Small requests are received as many at a time as there are. Around a large payload only the next header
/// is: what follows it is most likely another large payload, which would have to be copied out of here again.
struct InputBuffer: ~Copyable {
  private let buffer = AlignedBuffer(byteCount: 64 << 10)
  private var start = 0
  private var end = 0
  /// Whether the last payload was a large one and nothing was received since.
  private var followsLargePayload = false

  /// From how many bytes on a payload is worth a system call of its own.
  private static let largePayloadByteCount = 16 << 10
  /// Room for one request's header.
  private static let headerByteCount = 64

  init() {
    precondition(buffer.byteCount >= Limits.inputBytesMin, "the machine may need more at once")
  }

  /// The bytes that are there.
  var bytes: RawSpan {
    @_lifetime(borrow self) get { buffer.bytes.extracting(start..<end) }
  }

  /// How many bytes are there.
  var byteCount: Int { end - start }

  /// Drops the first `byteCount` bytes.
  mutating func consume(_ byteCount: Int) {
    precondition(byteCount <= end - start, "more consumed than there is")
    start += byteCount
    if start == end { (start, end) = (0, 0) }
  }

  /// Receives what is there, if anything comes soon. False when nothing did.
  mutating func receiveSome(from socket: Socket) throws(SocketError) -> Bool {
    followsLargePayload = false
    // SAFETY: an empty buffer without an address is a valid vector of no bytes.
    return try unsafe receive(UnsafeMutableRawBufferPointer(start: nil, count: 0), from: socket) != nil
  }

  /// Receives more, at least one byte, however long that takes.
  mutating func receive(from socket: Socket) throws(SocketError) {
    while try !receiveSome(from: socket) {
      // An idle client is waited for without a time limit, so that it costs nothing.
      try socket.waitReadable()
    }
  }

  /// Fills `payload` from the buffer first and then from the socket; what the socket gives beyond it stays
  /// here. False when the payload is late: `progress` says how far it is, and the next call goes on from there.
  mutating func fill(
    _ payload: UnsafeMutableRawBufferPointer, _ progress: inout PayloadProgress, from socket: Socket
  ) throws(SocketError) -> Bool {
    if progress.received == 0 {
      progress.received = min(byteCount, payload.count)
      // SAFETY: both sides have that many bytes, and payload memory is never this buffer.
      unsafe payload.copyMemory(
        from: UnsafeRawBufferPointer(rebasing: buffer.raw[start..<start + progress.received]))
      consume(progress.received)
      followsLargePayload = payload.count >= Self.largePayloadByteCount
    }
    while progress.received < payload.count {
      // SAFETY: received < count; the slice lies inside the payload.
      let rest = unsafe UnsafeMutableRawBufferPointer(rebasing: payload[progress.received...])
      progress.received += try unsafe receive(rest, from: socket) ?? 0
      if progress.received < payload.count, progress.isLate(at: MonotonicClock.nanoseconds()) { return false }
    }
    return true
  }

  /// One receive into `first` and the free end of the buffer. Returns the bytes that went to `first`; nil when nothing
  /// came in time.
  private mutating func receive(
    _ first: UnsafeMutableRawBufferPointer, from socket: Socket
  ) throws(SocketError) -> Int? {
    compact()
    // SAFETY: the free end lies inside the buffer, which self alone uses.
    let limit = followsLargePayload ? min(end + Self.headerByteCount, buffer.byteCount) : buffer.byteCount
    let free = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer.raw[end..<limit])
    guard let count = try unsafe socket.receive(first, free) else { return nil }
    let taken = min(count, first.count)
    end += count - taken
    return taken
  }

  /// Moves what is there to the front when the free end is short.
  private mutating func compact() {
    guard start > 0 else {
      precondition(end < buffer.byteCount, "the machine wants more than the buffer holds")
      return
    }
    // SAFETY: copyMemory allows overlap; both ranges lie inside the buffer.
    unsafe buffer.raw.copyMemory(from: UnsafeRawBufferPointer(rebasing: buffer.raw[start..<end]))
    (start, end) = (0, end - start)
  }
}

/// How much of a payload has come, and since when no more of it.
struct PayloadProgress {
  var received = 0
  /// When the last stretch of it was whole (nanoseconds of MonotonicClock).
  private(set) var since: UInt64 = 0
  private var mark = 0

  /// A sender that needs longer than this for a stretch is late.
  private static let stretchByteCount = 64 << 10
  private static let patienceNanoseconds = UInt64(Socket.receiveStallMilliseconds) * 1_000_000

  /// Whether the payload is late. Ask after each receive that did not fill it.
  mutating func isLate(at now: UInt64) -> Bool {
    if since == 0 || received - mark >= Self.stretchByteCount {
      (since, mark) = (now, received)
    }
    return now - since >= Self.patienceNanoseconds
  }
}
