internal import CLMDB

/// The write transaction inside `LMDBEnvironment.write`.
@safe
package struct LMDBWriteTransaction: ~Copyable, LMDBTransaction {
  let handle: OpaquePointer

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

  /// Calls `body` with each key and value from `first` on, in order, until it returns false. The spans are valid
  /// only inside the call, which must not change anything.
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
