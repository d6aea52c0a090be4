internal import Glibc

/// The system's error numbers as sentences.
package enum SystemError {
  /// The C library's sentence for `code`.
  package static func text(_ code: Int32) -> String {
    guard code != 0 else { return "wrote less than asked" }
    // SAFETY: strerror returns a terminated string that lives until the thread's next call.
    return unsafe String(cString: strerror(code))
  }

  /// ENOSPC, EDQUOT and EFBIG all mean: no room, but room may come.
  package static func isNoSpace(_ code: Int32) -> Bool {
    code == ENOSPC || code == EDQUOT || code == EFBIG
  }
}
