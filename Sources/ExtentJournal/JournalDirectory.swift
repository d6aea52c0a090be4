internal import BlockFile
internal import Bytes
internal import CSupport
internal import Glibc

/// The journal directory: its superblock and its lock.
struct JournalDirectory: Sendable {
  let path: String

  var segmentsPath: String { path + "/segments" }
  var indexPath: String { path + "/index" }
  var index: IndexDirectory { IndexDirectory(path: indexPath) }
  private var superblockPath: String { path + "/journal" }

  /// Makes the directory and what belongs in it, 0700. Existing ones are left as they are.
  func create() throws(JournalError) {
    for directory in [path, segmentsPath, indexPath] {
      guard unsafe mkdir(directory, 0o700) != 0, errno != EEXIST else { continue }
      throw JournalError(
        errno == ENOSPC ? .noSpace : .failed,
        "cannot make the journal directory \(directory): \(SystemError.text(errno))")
    }
  }

  /// Takes the journal for this process; the lock ends with the returned descriptor, or with the process.
  func lock() throws(JournalError) -> FileLock {
    let file = path + "/lock"
    let descriptor = unsafe spw_open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else {
      throw JournalError(
        SystemError.isNoSpace(errno) ? .noSpace : .failed, "cannot open \(file): \(SystemError.text(errno))")
    }
    guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
      let why = errno
      close(descriptor)
      guard why == EWOULDBLOCK else {
        throw JournalError(.failed, "cannot lock \(file): \(SystemError.text(why))")
      }
      throw JournalError(
        .inUse, "the journal in \(path) is in use by another spillway; stop it first, or use its sockets")
    }
    return FileLock(descriptor: descriptor)
  }

  /// Whether another process holds the lock.
  func isLocked() -> Bool {
    let descriptor = unsafe spw_open(path + "/lock", O_RDONLY | O_CLOEXEC, 0)
    guard descriptor >= 0 else { return false }
    defer { close(descriptor) }
    return flock(descriptor, LOCK_SH | LOCK_NB) != 0
  }

  /// The superblock, or nil when there is none.
  func readSuperblock() throws(JournalError) -> JournalSuperblock? {
    let bytes: [UInt8]
    do throws(FileError) {
      bytes = try read(superblockPath, byteCountMax: JournalSuperblock.byteCount + 1)
    } catch {
      if error.errno == ENOENT { return nil }
      throw JournalError(error)
    }
    do throws(FormatFlaw) {
      return try JournalSuperblock(bytes)
    } catch {
      let advice =
        error.kind == .foreign ? "" : "; restore it from a copy of the journal, the segments are untouched"
      throw JournalError(.damaged, "\(superblockPath) \(error.sentence)\(advice)")
    }
  }

  /// Replaces the superblock, durably and as a whole.
  func writeSuperblock(_ superblock: JournalSuperblock) throws(JournalError) {
    let beside = superblockPath + ".next"
    do throws(FileError) {
      try write(superblock.encoded, beside)
      Failpoint.pass(.superblockWritten)
      guard unsafe rename(beside, superblockPath) == 0 else {
        throw FileError(operation: "rename", path: beside, errno: errno)
      }
      Failpoint.pass(.superblockReplaced)
      try POSIXDirectory(path: path).syncNames()
    } catch {
      throw JournalError(error)
    }
  }

  /// The boot id of this machine: what is in shared memory does not outlive it.
  static func bootID() -> JournalUUID {
    // Without /proc every boot looks the same; a missing ring is then an error to be accepted by hand.
    let directory = JournalDirectory(path: "")
    do throws(FileError) {
      let bytes = try directory.read("/proc/sys/kernel/random/boot_id", byteCountMax: 64)
      return JournalUUID(String(decoding: bytes.prefix(36), as: UTF8.self)) ?? .zero
    } catch {
      return .zero
    }
  }

  private func read(_ file: String, byteCountMax: Int) throws(FileError) -> [UInt8] {
    let descriptor = unsafe spw_open(file, O_RDONLY | O_CLOEXEC, 0)
    guard descriptor >= 0 else { throw FileError(operation: "open", path: file, errno: errno) }
    defer { close(descriptor) }
    var bytes = [UInt8](repeating: 0, count: byteCountMax)
    // SAFETY: the kernel writes at most the array's bytes.
    let count = unsafe bytes.withUnsafeMutableBytes {
      unsafe Glibc.read(descriptor, $0.baseAddress, $0.count)
    }
    guard count >= 0 else { throw FileError(operation: "read", path: file, errno: errno) }
    return Array(bytes.prefix(count))
  }

  private func write(_ bytes: [UInt8], _ file: String) throws(FileError) {
    let descriptor = unsafe spw_open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else { throw FileError(operation: "open", path: file, errno: errno) }
    defer { close(descriptor) }
    // SAFETY: the kernel reads exactly the array's bytes.
    let count = unsafe bytes.withUnsafeBytes { unsafe Glibc.write(descriptor, $0.baseAddress, $0.count) }
    guard count == bytes.count else {
      throw FileError(operation: "write", path: file, errno: count < 0 ? errno : 0)
    }
    guard fdatasync(descriptor) == 0 else {
      throw FileError(operation: "fdatasync", path: file, errno: errno)
    }
  }
}

/// A held lock file.
struct FileLock: ~Copyable, Sendable {
  fileprivate let descriptor: Int32

  deinit { close(descriptor) }
}
