internal import CLMDB

/// What both kinds of transaction can do.
package protocol LMDBTransaction: ~Copyable {
  /// A copy of the value of `key`, or nil.
  func get(_ database: LMDBDatabase, _ key: [UInt8]) throws(LMDBError) -> [UInt8]?
  /// Calls `body` with each key and value from `first` on, in order, until it returns false.
  func scan(
    _ database: LMDBDatabase, from first: [UInt8], _ body: (_ key: RawSpan, _ value: RawSpan) -> Bool
  ) throws(LMDBError)
  /// How deep the tree of `database` is (0: empty, 1: one leaf) and how many of its pages are branches.
  func shape(_ database: LMDBDatabase) throws(LMDBError) -> (depth: Int, branchPages: Int)
}

/// A snapshot of the environment, for one thread at a time. Reset while it rests in a pool.
@safe
package final class LMDBReadTransaction: LMDBTransaction, @unchecked Sendable {
  // Sendable: MDB_NOTLS frees a read transaction from its thread; whoever took it from the pool uses it alone.
  private let environment: LMDBEnvironment
  fileprivate let handle: OpaquePointer

  init(environment: LMDBEnvironment, handle: OpaquePointer) {
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
    try unsafe scanValues(handle, database, from: first, body)
  }

  /// How deep the tree of `database` is (0: empty, 1: one leaf) and how many of its pages are branches.
  package func shape(_ database: LMDBDatabase) throws(LMDBError) -> (depth: Int, branchPages: Int) {
    try unsafe shapeOf(handle, database)
  }
}

extension LMDBReadTransaction {
  /// How many pages `database` has.
  func pageCount(_ database: LMDBDatabase) throws(LMDBError) -> Int {
    var status = MDB_stat()
    try unsafe check("mdb_stat", mdb_stat(handle, database.handle, &status))
    return Int(status.ms_branch_pages + status.ms_leaf_pages + status.ms_overflow_pages)
  }
}

func shapeOf(
  _ transaction: OpaquePointer, _ database: LMDBDatabase
) throws(LMDBError) -> (depth: Int, branchPages: Int) {
  var status = MDB_stat()
  try unsafe check("mdb_stat", mdb_stat(transaction, database.handle, &status))
  return (Int(status.ms_depth), Int(status.ms_branch_pages))
}

/// The scan of either kind of transaction.
func scanValues(
  _ transaction: OpaquePointer, _ database: LMDBDatabase, from first: [UInt8],
  _ body: (_ key: RawSpan, _ value: RawSpan) -> Bool
) throws(LMDBError) {
  var cursor: OpaquePointer?
  try unsafe check("mdb_cursor_open", mdb_cursor_open(transaction, database.handle, &cursor))
  defer { unsafe mdb_cursor_close(cursor) }
  var key = unsafe MDB_val()
  var value = unsafe MDB_val()
  var code = unsafe first.withUnsafeBytes { raw in
    unsafe key = unsafe MDB_val(
      mv_size: raw.count, mv_data: UnsafeMutableRawPointer(mutating: raw.baseAddress))
    return unsafe mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE)
  }
  while code == 0 {
    // SAFETY: LMDB keeps key and value in place until the transaction ends or writes; the spans end with the call.
    let keySpan = unsafe RawSpan(_unsafeStart: key.mv_data, byteCount: key.mv_size)
    let valueSpan = unsafe RawSpan(_unsafeStart: value.mv_data, byteCount: value.mv_size)
    guard body(keySpan, valueSpan) else { return }
    code = unsafe mdb_cursor_get(cursor, &key, &value, MDB_NEXT)
  }
  if code != MDB_NOTFOUND { try check("mdb_cursor_get", code) }
}

/// Lends `bytes` to `body` as an MDB_val.
func withValue(_ bytes: [UInt8], _ body: (UnsafeMutablePointer<MDB_val>) -> Int32) -> Int32 {
  // SAFETY: LMDB only reads through the pointers of keys and values that it is given.
  unsafe bytes.withUnsafeBytes { raw in
    var value = unsafe MDB_val(
      mv_size: raw.count, mv_data: UnsafeMutableRawPointer(mutating: raw.baseAddress))
    return unsafe body(&value)
  }
}

func copyValue(
  _ transaction: OpaquePointer, _ database: LMDBDatabase, _ key: [UInt8]
) throws(LMDBError) -> [UInt8]? {
  var value = unsafe MDB_val()
  let code = unsafe withValue(key) { unsafe mdb_get(transaction, database.handle, $0, &value) }
  if code == MDB_NOTFOUND { return nil }
  try check("mdb_get", code)
  // SAFETY: the value lies in the map until the transaction ends, and is copied here.
  return unsafe [UInt8](UnsafeRawBufferPointer(start: value.mv_data, count: value.mv_size))
}
