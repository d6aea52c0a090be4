internal import Bytes
internal import CSupport
internal import Glibc

/// A directory of the local filesystem as a `FileStore`. Files are 0600.
package final class POSIXDirectory: FileStore {
  private let path: String

  /// The files of the existing directory at `path`.
  package init(path: String) { self.path = path }

  /// Follows no order and leaves out `.` and `..`; every other entry counts, whatever it is.
  package func list() throws(FileError) -> [String] {
    guard let directory = unsafe opendir(path) else {
      throw FileError(operation: "opendir", path: path, errno: errno)
    }
    // SAFETY: `directory` is open until the defer; each entry is used before the next call.
    defer { unsafe closedir(directory) }
    var names: [String] = []
    while let entry = unsafe readdir(directory) {
      let name = unsafe withUnsafeBytes(of: &entry.pointee.d_name) { raw in
        unsafe String(decoding: raw.prefix { $0 != 0 }, as: UTF8.self)
      }
      if name != "." && name != ".." { names.append(name) }
    }
    return names
  }

  /// Fails with EEXIST when the name is taken (O_EXCL).
  package func create(_ name: String) throws(FileError) -> any BlockFile {
    try POSIXFile(path: path + "/" + name, flags: O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC)
  }

  /// Falls back to a file that can only be read where the right to write is missing.
  package func open(_ name: String) throws(FileError) -> any BlockFile {
    let file = path + "/" + name
    do {
      return try POSIXFile(path: file, flags: O_RDWR | O_CLOEXEC)
    } catch {
      // A reader beside the daemon may lack the right to write; it never does.
      guard error.errno == EACCES || error.errno == EROFS else { throw error }
      return try POSIXFile(path: file, flags: O_RDONLY | O_CLOEXEC)
    }
  }

  /// Counts blocks as lstat(2) does, so a file that is open and growing may soon take more.
  package func allocatedByteCount(_ name: String) throws(FileError) -> UInt64 {
    var status = stat()
    guard unsafe lstat(path + "/" + name, &status) == 0 else {
      throw FileError(operation: "stat", path: path + "/" + name, errno: errno)
    }
    return UInt64(status.st_blocks) * 512
  }

  /// Gives the space back only when the last descriptor of the file is closed.
  package func unlink(_ name: String) throws(FileError) {
    guard unsafe Glibc.unlink(path + "/" + name) == 0 else {
      throw FileError(operation: "unlink", path: path + "/" + name, errno: errno)
    }
  }

  /// Opens and syncs the directory itself, at every call.
  package func syncNames() throws(FileError) {
    try POSIXFile(path: path, flags: O_RDONLY | O_DIRECTORY | O_CLOEXEC).sync()
  }

  /// Counts as free what the filesystem gives to everybody, without root's share (statvfs(3)).
  package func space() throws(FileError) -> FileSpace {
    var status = statvfs()
    guard unsafe statvfs(path, &status) == 0 else {
      throw FileError(operation: "statvfs", path: path, errno: errno)
    }
    let block = UInt64(status.f_frsize)
    return FileSpace(
      freeByteCount: UInt64(status.f_bavail) * block, totalByteCount: UInt64(status.f_blocks) * block)
  }
}

/// A file of the local filesystem.
///
/// Reads go through the page cache; writes past it where the filesystem allows (a second descriptor with
/// O_DIRECT), because buffered writing of a stream costs a copy and, measured, two thirds of the disk's speed.
/// The kernel keeps the two coherent.
final class POSIXFile: BlockFile {
  private let path: String
  private let descriptor: Int32
  /// The descriptor for writing: O_DIRECT, or the same as `descriptor` where the filesystem has none.
  private let directDescriptor: Int32

  /// Opens `path` with the flags of open(2).
  init(path: String, flags: Int32) throws(FileError) {
    self.path = path
    descriptor = unsafe spw_open(path, flags, 0o600)
    guard descriptor >= 0 else { throw FileError(operation: "open", path: path, errno: errno) }
    var direct: Int32 = -1
    if flags & O_ACCMODE == O_RDWR {
      direct = unsafe spw_open(path, O_WRONLY | O_CLOEXEC | spw_O_DIRECT, 0)
    }
    directDescriptor = direct >= 0 ? direct : descriptor
  }

  deinit {
    if directDescriptor != descriptor { close(directDescriptor) }
    close(descriptor)
  }

  func byteCount() throws(FileError) -> UInt64 {
    var status = stat()
    guard unsafe fstat(descriptor, &status) == 0 else { throw failure("fstat") }
    return UInt64(status.st_size)
  }

  func read(into target: inout MutableRawSpan, at offset: UInt64) throws(FileError) -> Int {
    var done = 0
    while done < target.byteCount {
      // SAFETY: the kernel writes at most `count - done` bytes behind `done`, inside the span.
      let count = unsafe target.withUnsafeMutableBytes { raw in
        unsafe pread(descriptor, raw.baseAddress! + done, raw.count - done, off_t(offset) + off_t(done))
      }
      if count < 0 {
        if errno == EINTR { continue }
        throw failure("pread", offset + UInt64(done))
      }
      if count == 0 { break }
      done += count
    }
    return done
  }

  func write(_ buffer: AlignedBuffer, byteCount: Int, at offset: UInt64) throws(FileError) {
    precondition(
      byteCount <= buffer.byteCount && byteCount % 4096 == 0 && offset % 4096 == 0, "unaligned write")
    var done = 0
    var target = directDescriptor
    while done < byteCount {
      // SAFETY: done + count ≤ byteCount ≤ the buffer's size, checked above.
      let count = unsafe pwrite(
        target, buffer.raw.baseAddress! + done, byteCount - done, off_t(offset) + off_t(done))
      if count < 0 {
        if errno == EINTR { continue }
        // Some filesystems take O_DIRECT at open and refuse it at the first write.
        if errno == EINVAL, target != descriptor {
          target = descriptor
          continue
        }
        throw failure("pwrite", offset + UInt64(done))
      }
      guard count > 0 else {
        throw FileError(operation: "pwrite", path: path, offset: offset + UInt64(done), errno: 0)
      }
      done += count
      // A short direct write may end off the 4 KiB grid; the page cache takes the rest.
      if done % 4096 != 0 { target = descriptor }
    }
  }

  func sync() throws(FileError) {
    guard fdatasync(descriptor) == 0 else { throw failure("fdatasync") }
  }

  func punch(_ range: Range<UInt64>) throws(FileError) {
    precondition(range.lowerBound % 4096 == 0 && range.upperBound % 4096 == 0, "unaligned hole")
    guard spw_punch_hole(descriptor, off_t(range.lowerBound), off_t(range.count)) == 0 else {
      throw failure("fallocate", range.lowerBound)
    }
  }

  func hasHole(in range: Range<UInt64>) throws(FileError) -> Bool {
    let hole = spw_next_hole(descriptor, off_t(range.lowerBound))
    guard hole >= 0 else { throw failure("lseek", range.lowerBound) }
    return UInt64(hole) < range.upperBound
  }

  func allocate(_ byteCount: UInt64) throws(FileError) {
    // As posix_fallocate, but without writing where the filesystem cannot do it.
    guard spw_allocate(descriptor, off_t(byteCount)) == 0 else { throw failure("fallocate") }
  }

  func truncate(to byteCount: UInt64) throws(FileError) {
    guard ftruncate(descriptor, off_t(byteCount)) == 0 else { throw failure("ftruncate", byteCount) }
  }

  private func failure(_ operation: String, _ offset: UInt64? = nil) -> FileError {
    FileError(operation: operation, path: path, offset: offset, errno: errno)
  }
}
