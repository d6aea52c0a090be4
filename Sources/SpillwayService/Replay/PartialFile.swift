internal import Bytes
internal import Glibc

/// A file that takes shape beside the one whose name it gets when it is whole: until then what was there stays, and
/// afterwards nobody sees a part.
final class PartialFile: Sendable {
  /// Where it takes shape; nothing is there yet.
  let path: String
  private let output: String
  private let mode: mode_t?

  /// For the regular file `output`, which is there or not; of a symbolic link, for what it points to.
  init(for output: String) throws(ServiceError) {
    var status = stat()
    // SAFETY: stat fills the structure that it is given; realpath's text is copied and freed.
    let exists = unsafe stat(output, &status) == 0
    mode = exists ? status.st_mode & 0o7777 : nil
    var place = output
    if exists, let real = unsafe realpath(output, nil) {
      place = unsafe String(cString: real)
      unsafe free(real)
    }
    self.output = place
    let slash = place.lastIndex(of: "/")
    let folder = slash.map { place[...$0] } ?? ""
    let name = slash.map { place[place.index(after: $0)...] } ?? place[...]
    let mark = String(UInt32.random(in: .min ... .max), radix: 36)
    path = "\(folder)\(String(decoding: name.utf8.prefix(200), as: UTF8.self)).\(mark).partial"
  }

  /// Creates it with nothing in it, for its owner only.
  func create() throws(ServiceError) {
    let descriptor = unsafe open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else { throw .failed("cannot write \(path): \(SystemError.text(errno))") }
    close(descriptor)
  }

  /// Gives it its name, durably, and the mode of what it replaces.
  func settle() throws(ServiceError) {
    if let mode { unsafe chmod(path, mode) }
    guard unsafe rename(path, output) == 0 else {
      throw .failed("cannot rename \(path) to \(output): \(SystemError.text(errno))")
    }
    let folder =
      output.lastIndex(of: "/").map { $0 == output.startIndex ? "/" : String(output[..<$0]) } ?? "."
    let descriptor = unsafe open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard descriptor >= 0, fsync(descriptor) == 0 else {
      throw .failed("cannot sync \(folder), where \(output) lies: \(SystemError.text(errno))")
    }
    close(descriptor)
  }

  /// Removes it. From any thread.
  func discard() { unsafe unlink(path) }
}
