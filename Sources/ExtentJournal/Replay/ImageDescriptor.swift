internal import Bytes
internal import CSupport
internal import Glibc

/// The descriptor that an image is written through. Closed with its owner unless it was lent.
final class ImageDescriptor {
  let number: Int32
  let name: String
  private let isOwned: Bool
  private let zeroes: AlignedBuffer

  /// Opens `path` with the flags of open(2), mode 0600.
  init(opening path: String, flags: Int32) throws(JournalError) {
    number = unsafe spw_open(path, flags | O_CLOEXEC, 0o600)
    name = path
    isOwned = true
    zeroes = Self.zeroBuffer()
    guard number >= 0 else { throw failure("open") }
  }

  /// Writes to `descriptor`, which its owner keeps open. `name` is for errors.
  init(lent descriptor: Int32, name: String) {
    number = descriptor
    self.name = name
    isOwned = false
    zeroes = Self.zeroBuffer()
  }

  deinit { if isOwned, number >= 0 { close(number) } }

  private static func zeroBuffer() -> AlignedBuffer {
    let buffer = AlignedBuffer(byteCount: 1 << 20)
    var memory = buffer.mutableBytes
    memory.zero()
    return buffer
  }

  /// Writes all of `bytes` at `offset`; nil is where the last write ended, for what cannot seek.
  func write(_ bytes: RawSpan, at offset: UInt64?) throws(JournalError) {
    var done = 0
    while done < bytes.byteCount {
      // SAFETY: the kernel reads at most the rest of the span.
      let count = unsafe bytes.withUnsafeBytes { raw in
        let (from, rest) = unsafe (raw.baseAddress! + done, raw.count - done)
        return if let offset {
          unsafe pwrite(number, from, rest, off_t(offset) + off_t(done))
        } else {
          unsafe Glibc.write(number, from, rest)
        }
      }
      if count < 0 {
        if errno == EINTR { continue }
        throw failure("write")
      }
      done += count
    }
  }

  /// Writes `byteCount` zero bytes, as `write` does.
  func writeZeroes(_ byteCount: UInt64, at offset: UInt64?) throws(JournalError) {
    let buffer = zeroes
    var done: UInt64 = 0
    while done < byteCount {
      let count = min(byteCount - done, UInt64(buffer.byteCount))
      try write(buffer.bytes.extracting(0..<Int(count)), at: offset.map { $0 + done })
      done += count
    }
  }

  /// Makes what was written durable; what is no file or disk has no such thing.
  func sync() throws(JournalError) {
    guard fsync(number) == 0 || errno == EINVAL || errno == EROFS || errno == ENOTSUP else {
      throw failure("fsync")
    }
  }

  /// The error of the call that has just failed.
  func failure(_ operation: String) -> JournalError {
    let code = errno
    return JournalError(
      SystemError.isNoSpace(code) ? .noSpace : .failed, "\(operation) \(name): \(SystemError.text(code))")
  }
}
