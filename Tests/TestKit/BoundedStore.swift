package import BlockFile
import Bytes
import Threads

/// A file store of a given size, which can change: a filesystem that fills up, and to which space returns.
package final class BoundedStore: FileStore, @unchecked Sendable {
  // Sendable: everything mutable is guarded by `lock`.
  private let inner: any FileStore
  private let lock = Lock()
  private var total: UInt64
  private var taken: [String: UInt64] = [:]
  private var refusals = 0

  /// An empty store of `byteCount` bytes; `inner` keeps the files.
  package init(_ inner: any FileStore, byteCount: UInt64) {
    self.inner = inner
    total = byteCount
  }

  /// What the store has in all.
  package var byteCount: UInt64 {
    get { lock.withLock { total } }
    set { lock.withLock { total = newValue } }
  }

  /// How often a write has found no space.
  package var refusalCount: Int { lock.withLock { refusals } }

  package func space() throws(FileError) -> FileSpace {
    lock.withLock {
      let used = taken.values.reduce(0, +)
      return FileSpace(freeByteCount: total - min(used, total), totalByteCount: total)
    }
  }

  package func list() throws(FileError) -> [String] { try inner.list() }
  package func create(_ name: String) throws(FileError) -> any BlockFile {
    BoundedFile(try inner.create(name), name, self)
  }
  package func open(_ name: String) throws(FileError) -> any BlockFile {
    BoundedFile(try inner.open(name), name, self)
  }
  package func allocatedByteCount(_ name: String) throws(FileError) -> UInt64 {
    try inner.allocatedByteCount(name)
  }
  package func unlink(_ name: String) throws(FileError) {
    try inner.unlink(name)
    lock.withLock { taken[name] = nil }
  }
  package func syncNames() throws(FileError) { try inner.syncNames() }

  fileprivate func punch(_ name: String, _ range: Range<UInt64>) {
    lock.withLock {
      taken[name] = taken[name, default: 0] - min(taken[name, default: 0], UInt64(range.count))
    }
  }

  fileprivate func grow(_ name: String, to end: UInt64) throws(FileError) {
    try lock.withLock { () throws(FileError) in
      let others = taken.filter { $0.key != name }.values.reduce(0, +)
      let size = max(taken[name, default: 0], end)
      guard others + size <= total else {
        refusals += 1
        throw FileError(operation: "write", path: name, errno: 28)
      }
      taken[name] = size
    }
  }
}

private final class BoundedFile: BlockFile {
  private let inner: any BlockFile
  private let name: String
  private let store: BoundedStore

  init(_ inner: any BlockFile, _ name: String, _ store: BoundedStore) {
    self.inner = inner
    self.name = name
    self.store = store
  }

  func byteCount() throws(FileError) -> UInt64 { try inner.byteCount() }
  func read(into target: inout MutableRawSpan, at offset: UInt64) throws(FileError) -> Int {
    try inner.read(into: &target, at: offset)
  }
  func write(_ buffer: AlignedBuffer, byteCount: Int, at offset: UInt64) throws(FileError) {
    try store.grow(name, to: offset + UInt64(byteCount))
    try inner.write(buffer, byteCount: byteCount, at: offset)
  }
  func allocate(_ byteCount: UInt64) throws(FileError) {
    try store.grow(name, to: byteCount)
    try inner.allocate(byteCount)
  }
  func sync() throws(FileError) { try inner.sync() }
  func punch(_ range: Range<UInt64>) throws(FileError) {
    try inner.punch(range)
    store.punch(name, range)
  }
  func truncate(to byteCount: UInt64) throws(FileError) { try inner.truncate(to: byteCount) }
}
