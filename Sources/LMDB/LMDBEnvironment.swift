internal import CLMDB
internal import Glibc

// LMDB 0.9, as little of it as the index needs. The rules that the wrapper keeps, with their reasons:
// - values never outlive their transaction: reads hand spans to a closure;
// - one write transaction at a time, on the thread that began it: `write` takes a closure that cannot suspend;
// - read transactions are not bound to threads (MDB_NOTLS) and are pooled: reset and renewed, never held;
// - default full sync: NOSYNC and WRITEMAP can lose or corrupt the file at a crash;
// - the reader table is a shared mapping of `lock.mdb`: its space is reserved first, because a store into a hole of a full
//   filesystem would be SIGBUS;
// - the map is reserved large once: growing it would need every transaction to stop.

/// A named database of an environment.
package struct LMDBDatabase: Sendable {
  let handle: MDB_dbi
}

/// One opened environment: a directory with `data.mdb` and `lock.mdb`.
///
/// A process has an environment open at most once; who opens it again shares it (OpenEnvironment).
@safe
package final class LMDBEnvironment: @unchecked Sendable {
  // Sendable: an MDB_env may be shared between threads; one transaction writes at a time, and it alone sets `addedPagesMax`.
  private let shared: OpenEnvironment
  private var environment: OpaquePointer { unsafe shared.handle }

  /// Address space reserved for the map: costs nothing until used, and saves ever having to grow it.
  package static let mapByteCount = 1 << 40

  /// Opens the environment in the existing directory `path`. A read-only one may live beside a writer, of this process or of
  /// another. `databases` counts only for who opens it first.
  package init(path: String, databases: Int, readOnly: Bool) throws(LMDBError) {
    shared = try unsafe OpenEnvironment.take(path, readOnly: readOnly) { (handle) throws(LMDBError) in
      try unsafe check("mdb_env_set_maxdbs", mdb_env_set_maxdbs(handle, MDB_dbi(databases)))
      try unsafe check("mdb_env_set_maxreaders", mdb_env_set_maxreaders(handle, Self.readersMax))
      try unsafe check("mdb_env_set_mapsize", mdb_env_set_mapsize(handle, Self.mapByteCount))
      if !readOnly { try Self.reserve("\(path)/lock.mdb", byteCount: Self.lockByteCount) }
      let flags = UInt32(MDB_NOTLS) | UInt32(MDB_NORDAHEAD) | (readOnly ? UInt32(MDB_RDONLY) : 0)
      try unsafe check("mdb_env_open", mdb_env_open(handle, path, flags, 0o600))
      if !readOnly { try unsafe Self.extend("\(path)/data.mdb", to: Self.usedByteCount(handle)) }
      // Readers that died without leaving would keep pages from being reused.
      var dead: Int32 = 0
      try unsafe check("mdb_reader_check", mdb_reader_check(handle, &dead))
    }
  }

  deinit { shared.leave() }

  /// Most read transactions at once: two for each of the connections that a server takes if it is not told another number. Each takes
  /// 64 bytes on disk in every journal.
  private static let readersMax: UInt32 = 8 << 10
  /// Covers LMDB's own header and its readers of 64 bytes; a larger file only means more readers.
  private static let lockByteCount = off_t(readersMax) * 64 + 4096

  private static func reserve(_ file: String, byteCount: off_t) throws(LMDBError) {
    guard let stream = unsafe fopen(file, "ae") else {
      throw LMDBError(operation: "open \(file)", code: errno)
    }
    // SAFETY: the stream is open until here and closed once.
    defer { unsafe fclose(stream) }
    unsafe fchmod(fileno(stream), 0o600)
    try unsafe check("posix_fallocate \(file)", posix_fallocate(fileno(stream), 0, byteCount))
  }

  /// Makes the file as long as its last page says: a look behind the end would be SIGBUS, a page of zeroes is an error.
  ///
  /// The end of a sound file may be missing, since LMDB does not write pages that a transaction took and gave back.
  private static func extend(_ file: String, to wanted: UInt64) throws(LMDBError) {
    var status = stat()
    guard unsafe stat(file, &status) == 0 else { throw LMDBError(operation: "stat \(file)", code: errno) }
    guard UInt64(status.st_size) < wanted else { return }
    guard wanted - UInt64(status.st_size) <= unwrittenBytesMax else {
      throw LMDBError.corrupted("\(file) is shorter than it says")
    }
    guard unsafe truncate(file, off_t(wanted)) == 0 else {
      throw LMDBError(operation: "truncate \(file)", code: errno)
    }
  }

  /// What one transaction of 4,096 pages can leave unwritten at the end of the file.
  private static let unwrittenBytesMax: UInt64 = 16 << 20

  /// Opens (in a writable environment: creates) the database `name`.
  package func open(_ name: String, create: Bool) throws(LMDBError) -> LMDBDatabase {
    var transaction: OpaquePointer?
    try unsafe check(
      "mdb_txn_begin", mdb_txn_begin(environment, nil, create ? 0 : UInt32(MDB_RDONLY), &transaction))
    var handle = MDB_dbi()
    let code = unsafe mdb_dbi_open(transaction, name, create ? UInt32(MDB_CREATE) : 0, &handle)
    guard code == 0 else {
      unsafe mdb_txn_abort(transaction)
      throw LMDBError(operation: "mdb_dbi_open \(name)", code: code)
    }
    try unsafe check("mdb_txn_commit", mdb_txn_commit(transaction))
    return LMDBDatabase(handle: handle)
  }

  /// Runs `body` in a write transaction and commits it durably; an error from `body` or the commit leaves the
  /// environment as it was.
  package func write(
    _ body: (borrowing LMDBWriteTransaction) throws(LMDBError) -> Void
  ) throws(LMDBError) {
    var handle: OpaquePointer?
    try unsafe check("mdb_txn_begin", mdb_txn_begin(environment, nil, 0, &handle))
    // SAFETY: mdb_txn_begin succeeded, so the handle is set.
    let transaction = unsafe LMDBWriteTransaction(handle: handle!)
    let before = lastPage
    do throws(LMDBError) {
      try body(transaction)
    } catch {
      unsafe mdb_txn_abort(handle)
      throw error
    }
    try unsafe check("mdb_txn_commit", mdb_txn_commit(handle))
    addedPagesMax = max(addedPagesMax, lastPage - before)
  }

  /// The most pages by which one `write` made the file grow. While a reader holds an old snapshot no page is reused, and
  /// this is every page that the transaction dirtied.
  package private(set) var addedPagesMax = 0

  private var lastPage: Int {
    var info = unsafe MDB_envinfo()
    unsafe mdb_env_info(environment, &info)
    return unsafe Int(info.me_last_pgno)
  }

  /// A reader that sees the last commit. Release it soon: while it lives no page that it can see is reused.
  package func beginRead() throws(LMDBError) -> LMDBReadTransaction {
    var handle: OpaquePointer?
    try unsafe check("mdb_txn_begin", mdb_txn_begin(environment, nil, UInt32(MDB_RDONLY), &handle))
    // SAFETY: mdb_txn_begin succeeded, so the handle is set.
    return unsafe LMDBReadTransaction(environment: self, handle: handle!)
  }

  /// Bytes of the pages that hold something of `databases`, as of the last commit; the rest of the file is free, but for a few
  /// pages of LMDB's own.
  package func liveByteCount(_ databases: [LMDBDatabase]) throws(LMDBError) -> UInt64 {
    let reader = try beginRead()
    defer { reader.reset() }
    var pages = 0
    for database in databases { pages += try reader.pageCount(database) }
    var status = MDB_stat()
    unsafe mdb_env_stat(environment, &status)
    return UInt64(pages) * UInt64(status.ms_psize)
  }

  /// Writes the last commit, without what is free, into the empty directory `path`, durably.
  package func copyCompacted(to path: String) throws(LMDBError) {
    try unsafe check("mdb_env_copy2", mdb_env_copy2(environment, path, UInt32(MDB_CP_COMPACT)))
    guard let stream = unsafe fopen("\(path)/data.mdb", "r+e") else {
      throw LMDBError(operation: "open \(path)/data.mdb", code: errno)
    }
    // SAFETY: the stream is open until here and closed once.
    defer { unsafe fclose(stream) }
    guard unsafe fsync(fileno(stream)) == 0 else { throw LMDBError(operation: "fsync", code: errno) }
    unsafe fchmod(fileno(stream), 0o600)
  }

  /// Bytes of the file in use: pages times page size.
  package func usedByteCount() -> UInt64 { unsafe Self.usedByteCount(environment) }

  private static func usedByteCount(_ environment: OpaquePointer) -> UInt64 {
    var info = unsafe MDB_envinfo()
    var status = MDB_stat()
    unsafe mdb_env_info(environment, &info)
    unsafe mdb_env_stat(environment, &status)
    return unsafe UInt64(info.me_last_pgno + 1) * UInt64(status.ms_psize)
  }
}
