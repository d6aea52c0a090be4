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

/// A named database of an environment.
package struct LMDBDatabase: Sendable {
  fileprivate let handle: MDB_dbi
}

/// One opened environment: a directory with `data.mdb` and `lock.mdb`.
///
/// A process opens an environment at most once (its file locks die with the second close).
@safe
package final class LMDBEnvironment: @unchecked Sendable {
  // Sendable: an MDB_env may be shared between threads; `pool` is guarded by LMDB's caller through `withPool`.
  private let environment: OpaquePointer

  /// Address space reserved for the map: costs nothing until used, and saves ever having to grow it.
  package static let mapByteCount = 1 << 40

  /// Opens the environment in the existing directory `path`. A read-only one may live beside a writer of
  /// another process.
  package init(path: String, databases: Int, readOnly: Bool) throws(LMDBError) {
    var handle: OpaquePointer?
    try unsafe check("mdb_env_create", mdb_env_create(&handle))
    // SAFETY: mdb_env_create succeeded, so the handle is set. From here on deinit closes it, whatever fails below.
    unsafe environment = handle!
    try unsafe check("mdb_env_set_maxdbs", mdb_env_set_maxdbs(environment, MDB_dbi(databases)))
    try unsafe check("mdb_env_set_maxreaders", mdb_env_set_maxreaders(environment, 1024))
    try unsafe check("mdb_env_set_mapsize", mdb_env_set_mapsize(environment, Self.mapByteCount))
    if !readOnly { try Self.reserve("\(path)/lock.mdb", byteCount: Self.lockByteCount) }
    let flags = UInt32(MDB_NOTLS) | UInt32(MDB_NORDAHEAD) | (readOnly ? UInt32(MDB_RDONLY) : 0)
    try unsafe check("mdb_env_open", mdb_env_open(environment, path, flags, 0o600))
    // Readers that died without leaving would keep pages from being reused.
    var dead: Int32 = 0
    try unsafe check("mdb_reader_check", mdb_reader_check(environment, &dead))
  }

  deinit { unsafe mdb_env_close(environment) }

  /// Covers LMDB's own header and 1024 readers of 64 bytes; a larger file only means more readers.
  private static let lockByteCount: off_t = 68 << 10

  private static func reserve(_ file: String, byteCount: off_t) throws(LMDBError) {
    guard let stream = unsafe fopen(file, "ae") else {
      throw LMDBError(operation: "open \(file)", code: errno)
    }
    // SAFETY: the stream is open until here and closed once.
    defer { unsafe fclose(stream) }
    unsafe fchmod(fileno(stream), 0o600)
    try unsafe check("posix_fallocate \(file)", posix_fallocate(fileno(stream), 0, byteCount))
  }

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
    do throws(LMDBError) {
      try body(transaction)
    } catch {
      unsafe mdb_txn_abort(handle)
      throw error
    }
    try unsafe check("mdb_txn_commit", mdb_txn_commit(handle))
  }

  /// A reader that sees the last commit. Release it soon: while it lives no page that it can see is reused.
  package func beginRead() throws(LMDBError) -> LMDBReadTransaction {
    var handle: OpaquePointer?
    try unsafe check("mdb_txn_begin", mdb_txn_begin(environment, nil, UInt32(MDB_RDONLY), &handle))
    // SAFETY: mdb_txn_begin succeeded, so the handle is set.
    return unsafe LMDBReadTransaction(environment: self, handle: handle!)
  }

  /// Bytes of the file in use: pages times page size.
  package func usedByteCount() -> UInt64 {
    var info = unsafe MDB_envinfo()
    var status = MDB_stat()
    unsafe mdb_env_info(environment, &info)
    unsafe mdb_env_stat(environment, &status)
    return unsafe UInt64(info.me_last_pgno + 1) * UInt64(status.ms_psize)
  }
}

/// The write transaction inside `LMDBEnvironment.write`.
@safe
package struct LMDBWriteTransaction: ~Copyable {
  fileprivate let handle: OpaquePointer

  /// Sets `key` to `value`.
  package func put(_ database: LMDBDatabase, _ key: [UInt8], _ value: [UInt8]) throws(LMDBError) {
    let code = unsafe withValue(key) { keyValue in
      unsafe withValue(value) { valueValue in
        unsafe mdb_put(handle, database.handle, keyValue, valueValue, 0)
      }
    }
    try check("mdb_put", code)
  }

  /// Removes `key`; nothing happens when it is not there.
  package func delete(_ database: LMDBDatabase, _ key: [UInt8]) throws(LMDBError) {
    let code = unsafe withValue(key) { unsafe mdb_del(handle, database.handle, $0, nil) }
    if code != MDB_NOTFOUND { try check("mdb_del", code) }
  }

  /// A copy of the value of `key`, or nil. (A pointer into the map would not survive the next `put`.)
  package func get(_ database: LMDBDatabase, _ key: [UInt8]) throws(LMDBError) -> [UInt8]? {
    try unsafe copyValue(handle, database, key)
  }
}

/// A snapshot of the environment, for one thread at a time. Reset while it rests in a pool.
@safe
package final class LMDBReadTransaction: @unchecked Sendable {
  // Sendable: MDB_NOTLS frees a read transaction from its thread; whoever took it from the pool uses it alone.
  private let environment: LMDBEnvironment
  private let handle: OpaquePointer

  fileprivate init(environment: LMDBEnvironment, handle: OpaquePointer) {
    self.environment = environment
    unsafe self.handle = handle
  }

  deinit { unsafe mdb_txn_abort(handle) }

  /// Lets go of the snapshot. Only `renew` may follow.
  package func reset() { unsafe mdb_txn_reset(handle) }

  /// Takes the newest snapshot after a `reset`.
  package func renew() throws(LMDBError) { try unsafe check("mdb_txn_renew", mdb_txn_renew(handle)) }

  /// A copy of the value of `key`, or nil.
  package func get(_ database: LMDBDatabase, _ key: [UInt8]) throws(LMDBError) -> [UInt8]? {
    try unsafe copyValue(handle, database, key)
  }

  /// Calls `body` with each key and value from `first` on, in order, until it returns false. The spans are valid
  /// only inside the call.
  package func scan(
    _ database: LMDBDatabase, from first: [UInt8], _ body: (_ key: RawSpan, _ value: RawSpan) -> Bool
  ) throws(LMDBError) {
    var cursor: OpaquePointer?
    try unsafe check("mdb_cursor_open", mdb_cursor_open(handle, database.handle, &cursor))
    defer { unsafe mdb_cursor_close(cursor) }
    var key = unsafe MDB_val()
    var value = unsafe MDB_val()
    var code = unsafe first.withUnsafeBytes { raw in
      unsafe key = unsafe MDB_val(
        mv_size: raw.count, mv_data: UnsafeMutableRawPointer(mutating: raw.baseAddress))
      return unsafe mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE)
    }
    while code == 0 {
      // SAFETY: LMDB keeps key and value in place until the transaction ends; the spans end with the call.
      let keySpan = unsafe RawSpan(_unsafeStart: key.mv_data, byteCount: key.mv_size)
      let valueSpan = unsafe RawSpan(_unsafeStart: value.mv_data, byteCount: value.mv_size)
      guard body(keySpan, valueSpan) else { return }
      code = unsafe mdb_cursor_get(cursor, &key, &value, MDB_NEXT)
    }
    if code != MDB_NOTFOUND { try check("mdb_cursor_get", code) }
  }
}

private func check(_ operation: String, _ code: Int32) throws(LMDBError) {
  guard code == 0 else { throw LMDBError(operation: operation, code: code) }
}

/// Lends `bytes` to `body` as an MDB_val.
private func withValue(_ bytes: [UInt8], _ body: (UnsafeMutablePointer<MDB_val>) -> Int32) -> Int32 {
  // SAFETY: LMDB only reads through the pointers of keys and values that it is given.
  unsafe bytes.withUnsafeBytes { raw in
    var value = unsafe MDB_val(
      mv_size: raw.count, mv_data: UnsafeMutableRawPointer(mutating: raw.baseAddress))
    return unsafe body(&value)
  }
}

private func copyValue(
  _ transaction: OpaquePointer, _ database: LMDBDatabase, _ key: [UInt8]
) throws(LMDBError) -> [UInt8]? {
  var value = unsafe MDB_val()
  let code = unsafe withValue(key) { unsafe mdb_get(transaction, database.handle, $0, &value) }
  if code == MDB_NOTFOUND { return nil }
  try check("mdb_get", code)
  // SAFETY: the value lies in the map until the transaction ends, and is copied here.
  return unsafe [UInt8](UnsafeRawBufferPointer(start: value.mv_data, count: value.mv_size))
}
