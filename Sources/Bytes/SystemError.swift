internal import Glibc

/// The system's error numbers (`errno`) as sentences and kinds.
package enum SystemError {
  /// The C library's sentence for `code`; 0 is what a write leaves that took only a part.
  package static func text(_ code: Int32) -> String {
    guard code != 0 else { return "wrote less than asked" }
    // SAFETY: strerror never returns nil, and its text lives until this thread's next call.
    return unsafe String(cString: strerror(code))
  }

  /// ENOSPC, EDQUOT and EFBIG all mean: no room, but room may come.
  package static func isNoSpace(_ code: Int32) -> Bool {
    code == ENOSPC || code == EDQUOT || code == EFBIG
  }
}
