internal import CLMDB
internal import Glibc

/// A failure of LMDB: its own codes (negative) or the system's (positive).
package struct LMDBError: Error, Sendable, CustomStringConvertible {
  /// The call that failed, or what was found.
  package var operation: String
  /// The code it returned.
  package var code: Int32

  /// The error of `operation`, which returned `code`.
  package init(operation: String, code: Int32) {
    self.operation = operation
    self.code = code
  }

  /// The error for a value that cannot be what was once put; `what` is a sentence without a full stop.
  package static func corrupted(_ what: String) -> LMDBError {
    LMDBError(operation: what, code: ownCode)
  }

  /// Whether the filesystem has no room for the file to grow. Nothing was changed.
  package var isNoSpace: Bool { [ENOSPC, EDQUOT, EFBIG].contains(code) }

  /// Whether the call would have worked at another moment: nothing is wrong with the environment.
  package var isTransient: Bool {
    [ENOMEM, EAGAIN, EINTR, EMFILE, ENFILE, MDB_READERS_FULL].contains(code)
  }

  /// Whether the environment cannot be relied on any more: an I/O error, damage, or a value that nobody put there.
  package var isDamage: Bool { !isNoSpace && !isTransient }

  /// A code of ours, beside LMDB's (-30799 to -30780): the operation says it all.
  private static let ownCode: Int32 = -30_700

  package var description: String {
    guard code != Self.ownCode else { return operation }
    // SAFETY: mdb_strerror returns a static or thread-local terminated string.
    return unsafe "\(operation): \(String(cString: mdb_strerror(code)))"
  }
}

/// Throws unless `code` says success.
func check(_ operation: String, _ code: Int32) throws(LMDBError) {
  guard code == 0 else { throw LMDBError(operation: operation, code: code) }
}
