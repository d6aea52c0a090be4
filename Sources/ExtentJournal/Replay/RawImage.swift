package import Bytes
internal import CSupport
internal import Glibc

/// A raw image: a regular file, whose zeroes are holes, or a block device.
package final class RawImage: ImageSink, ImageReader {
  private let file: ImageDescriptor
  /// Whether it reads as zeroes where nothing was written.
  private let isFresh: Bool
  /// False once the medium has refused to punch: then zeroes are written.
  private var punches = true

  /// Creates the file `path`, which must not exist, for a disk of `byteCount` bytes.
  package init(creating path: String, byteCount: UInt64) throws(JournalError) {
    file = try ImageDescriptor(opening: path, flags: O_RDWR | O_CREAT | O_EXCL)
    isFresh = true
    guard ftruncate(file.number, off_t(byteCount)) == 0 else { throw file.failure("ftruncate") }
  }

  /// Opens `path`, whose content counts where nothing is written: a regular file of exactly `byteCount` bytes, or a block
  /// device of as many or more. Anything else is `.usage`.
  package init(updating path: String, byteCount: UInt64) throws(JournalError) {
    file = try ImageDescriptor(opening: path, flags: O_RDWR)
    isFresh = false
    var status = stat()
    guard unsafe fstat(file.number, &status) == 0 else { throw file.failure("fstat") }
    let found = lseek(file.number, 0, SEEK_END)
    switch status.st_mode & S_IFMT {
    case S_IFREG where found == byteCount: break
    case S_IFBLK where found >= byteCount: break
    case S_IFREG, S_IFBLK:
      throw JournalError(.usage, "\(path) has \(found) bytes and the disk has \(byteCount)")
    default:
      throw JournalError(.usage, "\(path) is neither a regular file nor a block device")
    }
  }

  /// Writes `bytes` at `offset`.
  package func write(_ bytes: RawSpan, at offset: UInt64) throws(JournalError) {
    try file.write(bytes, at: offset)
  }

  /// Leaves a hole, or makes one, or writes zeroes where there can be none.
  package func writeZeroes(_ range: ByteRange) throws(JournalError) {
    guard !isFresh else { return }
    if punches {
      if spw_punch_hole(file.number, off_t(range.start), off_t(range.count)) == 0 { return }
      // A device takes whole blocks of its own; a filesystem may know no holes.
      guard [EOPNOTSUPP, ENOSYS, EINVAL].contains(errno) else { throw file.failure("fallocate") }
      punches = errno == EINVAL
    }
    try file.writeZeroes(range.count, at: range.start)
  }

  /// Syncs it, and lets the page cache forget it, so that `read` asks the disk.
  package func finish() throws(JournalError) {
    try file.sync()
    posix_fadvise(file.number, 0, 0, Int32(POSIX_FADV_DONTNEED))
  }

  /// Fills `target` from `offset` on.
  package func read(into target: inout MutableRawSpan, at offset: UInt64) throws(JournalError) {
    var done = 0
    while done < target.byteCount {
      // SAFETY: the kernel writes at most the rest of the span.
      let count = unsafe target.withUnsafeMutableBytes { raw in
        unsafe pread(file.number, raw.baseAddress! + done, raw.count - done, off_t(offset) + off_t(done))
      }
      if count < 0 && errno == EINTR { continue }
      guard count >= 0 else { throw file.failure("pread") }
      guard count > 0 else {
        throw JournalError(.failed, "\(file.name) ends at byte \(offset + UInt64(done))")
      }
      done += count
    }
  }
}
