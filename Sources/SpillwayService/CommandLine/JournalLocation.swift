internal import Bytes
internal import Glibc

/// Where a journal lies: what `-j DIR` names, there or not.
package struct JournalLocation: Hashable, Sendable {
  /// The absolute path.
  package let path: String

  /// The directory that `text` names, seen from `currentDirectory`.
  package init(parsing text: String, currentDirectory: String) throws(ServiceError) {
    guard !text.isEmpty, !text.utf8.contains(0) else {
      throw .usage("-j needs the path of a journal directory")
    }
    path = AbsolutePath.of(text, in: currentDirectory)
  }

  /// The path of `file` in the directory.
  package func path(of file: String) -> String { path + "/" + file }

  /// Whether there is a directory at all.
  package var exists: Bool {
    var information = stat()
    // SAFETY: stat fills the structure it is given and keeps nothing.
    return unsafe stat(path, &information) == 0 && information.st_mode & S_IFMT == S_IFDIR
  }

  /// Makes the directory, for its owner only, unless it is there.
  package func create() throws(ServiceError) {
    // SAFETY: mkdir reads the path during the call only.
    if unsafe mkdir(path, 0o700) == 0 { return }
    let number = errno
    if number == EEXIST && exists { return }
    let reason = number == EEXIST ? "it is no directory" : SystemError.text(number)
    throw .failed("the journal directory \(path) cannot be made (\(reason)); check the path after -j")
  }

  /// Fails unless the directory is there, for the commands that create nothing.
  package func requireExistence() throws(ServiceError) {
    guard exists else {
      throw .usage("there is no journal in \(path); check the path after -j")
    }
  }
}

/// Paths as other processes can use them: URIs and the recorded admin address are read elsewhere.
package enum AbsolutePath {
  /// `path` seen from `directory`, without `.`, doubled and trailing slashes. `..` stays: a link may stand
  /// before it.
  package static func of(_ path: String, in directory: String) -> String {
    let joined = path.hasPrefix("/") ? path : directory + "/" + path
    let parts = joined.split(separator: "/").filter { $0 != "." }
    return "/" + parts.joined(separator: "/")
  }

  /// Where this process stands.
  package static func currentDirectory() throws(ServiceError) -> String {
    // SAFETY: with a null buffer getcwd allocates a NUL-terminated string, which is copied and freed here.
    guard let path = unsafe getcwd(nil, 0) else {
      throw .failed("the current directory cannot be read (\(SystemError.text(errno))); go to another one")
    }
    defer { unsafe free(path) }
    return unsafe String(cString: path)
  }
}
