internal import Bytes
internal import CLibNBD

// What an NBD target asks of its connection: commands that are begun here and finished later, so that several are on
// their way at once.

extension SourceConnection {
  /// Whether nobody may write.
  var isReadOnly: Bool { unsafe nbd_is_read_only(handle) == 1 }
  /// Whether the server zeroes without being sent zeroes.
  var canZero: Bool { unsafe nbd_can_zero(handle) == 1 }
  /// Whether the server can make things durable; one that cannot has nothing to make durable.
  var canFlush: Bool { unsafe nbd_can_flush(handle) == 1 }

  /// Begins to write the first `count` bytes of `buffer`, which must live until `finish` returns or throws.
  func beginWrite(_ buffer: AlignedBuffer, count: Int, at offset: UInt64) throws(Failure) -> Int64 {
    precondition(count <= buffer.byteCount, "a write of more than the buffer has")
    // SAFETY: inside the buffer by the precondition; its owner keeps it until the command is over.
    return try begun(unsafe nbd_aio_pwrite(handle, buffer.raw.baseAddress!, count, offset, noCompletion(), 0))
  }

  /// Begins to zero `range`; the server may leave a hole.
  func beginZero(_ range: ByteRange) throws(Failure) -> Int64 {
    try begun(unsafe nbd_aio_zero(handle, range.count, range.start, noCompletion(), 0))
  }

  /// Begins to read into the first `count` bytes of `buffer`, which must live until `finish` returns or throws.
  func beginRead(_ buffer: AlignedBuffer, count: Int, at offset: UInt64) throws(Failure) -> Int64 {
    precondition(count <= buffer.byteCount, "a read of more than the buffer takes")
    // SAFETY: as in `beginWrite`.
    return try begun(unsafe nbd_aio_pread(handle, buffer.raw.baseAddress!, count, offset, noCompletion(), 0))
  }

  /// Makes everything that is finished durable. Blocks.
  func flush() throws(Failure) {
    try finish(unsafe nbd_aio_flush(handle, noCompletion(), 0))
  }

  private func begun(_ cookie: Int64) throws(Failure) -> Int64 {
    guard cookie >= 0 else { throw failure() }
    return cookie
  }
}
