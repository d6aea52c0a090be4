internal import Bytes
internal import NBDProtocol

/// What a connection has received and not yet dealt with: headers, and the beginnings of payloads.
struct InputBuffer: ~Copyable {
  private let buffer = AlignedBuffer(byteCount: 64 << 10)
  private var start = 0
  private var end = 0

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

  /// Receives more, at least one byte.
  mutating func receive(from socket: Socket) throws(SocketError) {
    // SAFETY: an empty buffer without an address is a valid vector of no bytes.
    _ = try unsafe receive(UnsafeMutableRawBufferPointer(start: nil, count: 0), from: socket)
  }

  /// Fills `payload` from the buffer first and then from the socket; what the socket gives beyond it stays
  /// here.
  mutating func fill(_ payload: UnsafeMutableRawBufferPointer, from socket: Socket) throws(SocketError) {
    let buffered = min(byteCount, payload.count)
    // SAFETY: both sides have `buffered` bytes, and payload memory is never this buffer.
    unsafe payload.copyMemory(
      from: UnsafeRawBufferPointer(rebasing: buffer.raw[start..<start + buffered]))
    consume(buffered)
    var filled = buffered
    while filled < payload.count {
      // SAFETY: filled < count; the slice lies inside the payload.
      let rest = unsafe UnsafeMutableRawBufferPointer(rebasing: payload[filled...])
      filled += try unsafe receive(rest, from: socket)
    }
  }

  /// One receive into `first` and the free end of the buffer. Returns the bytes that went to `first`.
  private mutating func receive(
    _ first: UnsafeMutableRawBufferPointer, from socket: Socket
  ) throws(SocketError) -> Int {
    compact()
    // SAFETY: the free end lies inside the buffer, which self alone uses.
    let free = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer.raw[end...])
    let count = try unsafe socket.receive(first, free)
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
