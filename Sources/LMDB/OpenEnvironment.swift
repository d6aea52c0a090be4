internal import CLMDB
internal import Glibc
internal import Threads

// The environments that this process has open, each once.
//
// LMDB's claim on `lock.mdb` belongs to the process and not to a handle. A second opening would take the file for
// nobody's and make its mutexes anew, under whoever holds one; the first close of either would give the claim up, and so would the
// close of any descriptor of the file. So whoever opens what is open already shares it, and the last one closes it.

/// One `MDB_env`. See the note above.
@safe
final class OpenEnvironment: @unchecked Sendable {
  // Sendable: `handle` and `identity` are constants, and LMDB lets threads share an environment; `users` is guarded by
  // `registry`.
  let handle: OpaquePointer
  private let isReadOnly: Bool
  private var identity: Identity?
  private var users = 1

  /// The file `data.mdb`, which nothing else can be while it is open.
  private struct Identity: Hashable, Sendable {
    var device: UInt64
    var inode: UInt64

    init?(path: String) {
      var status = stat()
      guard unsafe stat("\(path)/data.mdb", &status) == 0 else { return nil }
      device = UInt64(status.st_dev)
      inode = UInt64(status.st_ino)
    }
  }

  /// Held while files are opened and closed, too: nobody may see an environment that is neither.
  private static let registry = Lock()
  private nonisolated(unsafe) static var open: [Identity: OpenEnvironment] = [:]
  // Sendable: guarded by `registry`.

  /// The environment in the directory `path`: the one that is open, or else a new one, on which `setUp` is called first. Throws
  /// EBUSY where it is open for reading only and wanted for writing.
  static func take(
    _ path: String, readOnly: Bool, _ setUp: (OpaquePointer) throws(LMDBError) -> Void
  ) throws(LMDBError) -> OpenEnvironment {
    try registry.withLock { () throws(LMDBError) in
      if let identity = Identity(path: path), let found = unsafe open[identity] {
        guard readOnly || !found.isReadOnly else {
          throw LMDBError(operation: "open \(path) for writing while it is read here", code: EBUSY)
        }
        found.users += 1
        return found
      }
      let made = try OpenEnvironment(readOnly: readOnly)
      do throws(LMDBError) {
        try unsafe setUp(made.handle)
      } catch {
        unsafe mdb_env_close(made.handle)
        throw error
      }
      made.identity = Identity(path: path)
      if let identity = made.identity { unsafe open[identity] = made }
      return made
    }
  }

  private init(readOnly: Bool) throws(LMDBError) {
    var handle: OpaquePointer?
    try unsafe check("mdb_env_create", mdb_env_create(&handle))
    // SAFETY: mdb_env_create succeeded, so the handle is set.
    unsafe self.handle = handle!
    isReadOnly = readOnly
  }

  /// Closes it if nobody else has it. Once for each `take`, when none of the caller's transactions is left.
  func leave() {
    Self.registry.withLock {
      users -= 1
      guard users == 0 else { return }
      if let identity { unsafe Self.open[identity] = nil }
      unsafe mdb_env_close(handle)
    }
  }
}
