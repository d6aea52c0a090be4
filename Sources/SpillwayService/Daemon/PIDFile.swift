internal import Bytes
internal import CSupport
internal import Glibc

/// The file that holds the daemon's process id while it runs.
package struct PIDFile {
  private let path: String

  /// Writes the file whole: whoever waits for it to appear never reads half of it.
  package init(writingTo path: String) throws(ServiceError) {
    self.path = path
    let draft = "\(path).\(getpid())"
    // SAFETY: open, rename and write read their arguments during the call only.
    let file = unsafe spw_open(draft, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
    guard file >= 0 else { throw Self.cannotWrite(path, errno) }
    let text = Array("\(getpid())\n".utf8)
    let count = unsafe text.withUnsafeBytes { unsafe write(file, $0.baseAddress, $0.count) }
    let number = errno
    close(file)
    guard count == text.count else {
      Self.unlink(draft)
      throw Self.cannotWrite(path, number)
    }
    guard unsafe rename(draft, path) == 0 else {
      let number = errno
      Self.unlink(draft)
      throw Self.cannotWrite(path, number)
    }
  }

  /// Removes the file, unless another daemon has written its own there meanwhile.
  package func remove() {
    // SAFETY: open reads the path during the call; read writes at most the buffer's own bytes.
    let file = unsafe spw_open(path, O_RDONLY | O_CLOEXEC, 0)
    guard file >= 0 else { return }
    var buffer = [UInt8](repeating: 0, count: 32)
    let count = unsafe buffer.withUnsafeMutableBytes { unsafe read(file, $0.baseAddress, $0.count) }
    close(file)
    if count > 0 && buffer[..<count].elementsEqual("\(getpid())\n".utf8) { Self.unlink(path) }
  }

  private static func unlink(_ path: String) {
    // SAFETY: unlink reads the path during the call only.
    unsafe Glibc.unlink(path)
  }

  private static func cannotWrite(_ path: String, _ number: Int32) -> ServiceError {
    .failed("the pid file \(path) cannot be written (\(SystemError.text(number))); check --pid-file")
  }
}
