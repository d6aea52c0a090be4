internal import CLMDB

/// A failure of LMDB: its own codes (negative) or the system's (positive).
package struct LMDBError: Error, Sendable, CustomStringConvertible {
  /// The call that failed.
  package var operation: String
  /// The code it returned.
  package var code: Int32

  /// The error for a value that cannot be what was once put.
  package static func corrupted(_ what: String) -> LMDBError {
    LMDBError(operation: what, code: MDB_CORRUPTED)
  }

  /// Whether the filesystem has no room for the file to grow. Nothing was changed.
  package var isNoSpace: Bool { code == 28 || code == 122 || code == 27 }

  package var description: String {
    // SAFETY: mdb_strerror returns a static or thread-local terminated string.
    unsafe "\(operation): \(String(cString: mdb_strerror(code)))"
  }
}

/// Throws unless `code` says success.
func check(_ operation: String, _ code: Int32) throws(LMDBError) {
  guard code == 0 else { throw LMDBError(operation: operation, code: code) }
}
