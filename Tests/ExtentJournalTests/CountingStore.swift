import BlockFile
import Bytes
import Threads

/// A store of files that counts the reads of frames.
final class CountingStore: FileStore, @unchecked Sendable {
  // Sendable: guarded by `lock`.
  private let store: any FileStore
  private let lock = Lock()
  private let changed: Condition
  private var reads = 0
  private var bytes = 0

  init(_ store: any FileStore) {
    self.store = store
    changed = Condition(lock)
  }

  var readCount: Int { lock.withLock { reads } }

  /// Returns when `count` bytes were read.
  func wait(forBytes count: Int) { lock.withLock { while bytes < count { changed.wait() } } }

  fileprivate func note(_ count: Int) {
    lock.withLock {
      reads += 1
      bytes += count
      changed.broadcast()
    }
  }

  func list() throws(FileError) -> [String] { try store.list() }
  func create(_ name: String) throws(FileError) -> any BlockFile {
    CountingFile(try store.create(name), self)
  }
  func open(_ name: String) throws(FileError) -> any BlockFile { CountingFile(try store.open(name), self) }
  func allocatedByteCount(_ name: String) throws(FileError) -> UInt64 { try store.allocatedByteCount(name) }
  func unlink(_ name: String) throws(FileError) { try store.unlink(name) }
  func syncNames() throws(FileError) { try store.syncNames() }
}

private final class CountingFile: BlockFile {
  private let file: any BlockFile
  private let store: CountingStore

  init(_ file: any BlockFile, _ store: CountingStore) {
    self.file = file
    self.store = store
  }

  func byteCount() throws(FileError) -> UInt64 { try file.byteCount() }
  func read(into target: inout MutableRawSpan, at offset: UInt64) throws(FileError) -> Int {
    let count = try file.read(into: &target, at: offset)
    // The superblock is read once for each segment.
    if offset > 0 { store.note(count) }
    return count
  }
  func write(_ buffer: AlignedBuffer, byteCount: Int, at offset: UInt64) throws(FileError) {
    try file.write(buffer, byteCount: byteCount, at: offset)
  }
  func sync() throws(FileError) { try file.sync() }
  func punch(_ range: Range<UInt64>) throws(FileError) { try file.punch(range) }
  func truncate(to byteCount: UInt64) throws(FileError) { try file.truncate(to: byteCount) }
}
