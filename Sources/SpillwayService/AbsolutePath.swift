internal import Bytes
internal import Glibc

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
