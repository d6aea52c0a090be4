internal import BlockFile
internal import Bytes
internal import CSupport
internal import Glibc

/// A raw image being written: a regular file, whose zeroes are holes, or a block device, whose zeroes are written.
final class RawImage {
  private let path: String
  private let descriptor: Int32
  private let isRegular: Bool
  private let zeroes: AlignedBuffer

  /// Opens (or creates) `path` for `byteCount` bytes. A regular file that is not empty needs `force`, and is emptied.
  init(path: String, byteCount: UInt64, force: Bool) throws(JournalError) {
    self.path = path
    let zeroes = AlignedBuffer(byteCount: 1 << 20)
    var memory = zeroes.mutableBytes
    memory.zero()
    self.zeroes = zeroes
    descriptor = unsafe spw_open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else {
      throw JournalError(
        SystemError.isNoSpace(errno) ? .noSpace : .failed, "cannot write \(path): \(SystemError.text(errno))")
    }
    var status = stat()
    guard unsafe fstat(descriptor, &status) == 0 else { throw Self.failure(path, "fstat") }
    isRegular = status.st_mode & S_IFMT == S_IFREG
    guard isRegular || status.st_mode & S_IFMT == S_IFBLK else {
      throw JournalError(.usage, "\(path) is neither a regular file nor a block device")
    }
    if isRegular {
      guard status.st_size == 0 || force else {
        throw JournalError(.usage, "\(path) exists and is not empty; --force overwrites it")
      }
      guard ftruncate(descriptor, 0) == 0, ftruncate(descriptor, off_t(byteCount)) == 0 else {
        throw Self.failure(path, "ftruncate")
      }
    }
  }

  deinit { close(descriptor) }

  /// Writes `bytes` at `offset` (bytes).
  func write(_ bytes: RawSpan, at offset: UInt64) throws(JournalError) {
    var done = 0
    while done < bytes.byteCount {
      // SAFETY: the kernel reads at most the rest of the span.
      let count = unsafe bytes.withUnsafeBytes { raw in
        unsafe pwrite(descriptor, raw.baseAddress! + done, raw.count - done, off_t(offset) + off_t(done))
      }
      if count < 0 {
        if errno == EINTR { continue }
        throw Self.failure(path, "pwrite")
      }
      done += count
    }
  }

  /// Makes `range` read as zeroes.
  func writeZeroes(_ range: ByteRange) throws(JournalError) {
    guard !isRegular else { return }
    var position = range.start
    while position < range.end {
      let count = Int(min(range.end - position, UInt64(zeroes.byteCount)))
      let buffer = zeroes
      try write(buffer.bytes.extracting(0..<count), at: position)
      position += UInt64(count)
    }
  }

  /// Makes the image durable.
  func finish() throws(JournalError) {
    guard fsync(descriptor) == 0 else { throw Self.failure(path, "fsync") }
  }

  private static func failure(_ path: String, _ operation: String) -> JournalError {
    let code = errno
    return JournalError(
      SystemError.isNoSpace(code) ? .noSpace : .failed,
      "\(operation) \(path): \(SystemError.text(code)); the output is incomplete")
  }
}
