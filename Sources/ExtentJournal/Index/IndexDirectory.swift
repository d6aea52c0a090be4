internal import BlockFile
internal import Bytes
internal import CSupport
internal import Glibc

/// The directories of the index: the one in use, the one in which a new index is built beside it, and the one that it
/// replaced.
///
/// The new one takes the place of the old by two renames. A crash between them leaves no index in its place, and
/// `prepare` finishes what was begun.
struct IndexDirectory: Sendable {
  /// Of the index in use.
  let path: String

  var besidePath: String { path + ".next" }
  private var replacedPath: String { path + ".old" }
  /// Exists while the index is not to be believed: who opens the journal builds a new one.
  private var markPath: String { path + "/abandoned" }

  /// Before an index is opened by its owner: finishes or removes what a rebuild left, and removes an index that is not
  /// to be believed.
  func prepare() throws(FileError) {
    try remove(replacedPath)
    if !exists(path + "/data.mdb"), exists(besidePath + "/data.mdb") { try move(besidePath, path) }
    try remove(besidePath)
    if isAbandoned { try clear() }
  }

  /// Whether the index was found wanting and no other has taken its place yet.
  var isAbandoned: Bool { exists(markPath) }

  /// Marks the index as not to be believed, as far as the filesystem lets it: without the mark the next process finds
  /// out for itself.
  func markAbandoned() {
    let descriptor = unsafe spw_open(markPath, O_WRONLY | O_CREAT | O_CLOEXEC, 0o600)
    if descriptor >= 0 { close(descriptor) }
  }

  /// Empties the directory. The mark goes last: a crash must not leave a part of the index without it.
  func clear() throws(FileError) {
    for name in ["data.mdb", "lock.mdb", "abandoned"] { try removeFile("\(path)/\(name)") }
  }

  /// Makes an empty directory to build in.
  func makeBeside() throws(FileError) {
    try remove(besidePath)
    guard unsafe mkdir(besidePath, 0o700) == 0 else {
      throw FileError(operation: "mkdir", path: besidePath, errno: errno)
    }
  }

  /// Puts what was built beside in the place of the index, durably.
  func replace() throws(FileError) {
    try POSIXDirectory(path: besidePath).syncNames()
    try remove(replacedPath)
    // There is none when an earlier attempt failed between the two.
    if exists(path) { try move(path, replacedPath) }
    try move(besidePath, path)
    try POSIXDirectory(path: path + "/..").syncNames()
    try remove(replacedPath)
  }

  /// Which directory is in place now: changes when another index takes it. Nil while there is none.
  var identity: UInt64? {
    var status = stat()
    return unsafe stat(path, &status) == 0 ? UInt64(status.st_ino) : nil
  }

  private func exists(_ file: String) -> Bool { unsafe access(file, F_OK) == 0 }

  private func move(_ from: String, _ to: String) throws(FileError) {
    guard unsafe rename(from, to) == 0 else { throw FileError(operation: "rename", path: from, errno: errno) }
  }

  private func remove(_ directory: String) throws(FileError) {
    guard exists(directory) else { return }
    for name in ["data.mdb", "lock.mdb", "abandoned"] { try removeFile("\(directory)/\(name)") }
    guard unsafe rmdir(directory) == 0 else {
      throw FileError(operation: "rmdir", path: directory, errno: errno)
    }
  }

  private func removeFile(_ file: String) throws(FileError) {
    guard unsafe unlink(file) != 0, errno != ENOENT else { return }
    throw FileError(operation: "unlink", path: file, errno: errno)
  }
}
