internal import BlockFile
internal import Glibc
internal import LMDB
internal import Threads

// The points in time that somebody reads now, each with its index in `DIR/history`. Several readers of one share it; it goes
// with the last of them.
//
// 1. A past index is built while nothing is moved or freed (Upkeep.inQuiet), under a pin (History), and from then on follows
//    each move as the index does: behind it, and before a later round frees what was moved.
// 2. Its readers are in an epoch of the segments from before they look until they have copied.
// 3. When the index is built again pins are lost (History, rule 5): readers find that out inside their epoch, and fail.

/// See the note at the top of the file.
final class PastIndexes: @unchecked Sendable {
  // Sendable: guarded by `lock`, under which nothing else is taken.
  private let lock = Lock()
  private var open: [UInt64: PastIndex] = [:]
  private let path: String

  /// Those of the journal in `directory`, none at first: what a process that died has left is removed.
  init(of directory: JournalDirectory) {
    path = directory.path + "/history"
    guard let names = Self.names(in: path) else { return }
    for name in names {
      for file in ["data.mdb", "lock.mdb"] { unsafe unlink("\(path)/\(name)/\(file)") }
      unsafe rmdir("\(path)/\(name)")
    }
    unsafe rmdir(path)
  }

  private static func names(in path: String) -> [String]? {
    guard let stream = unsafe opendir(path) else { return nil }
    defer { unsafe closedir(stream) }
    var names: [String] = []
    while let entry = unsafe readdir(stream) {
      // SAFETY: the name is terminated, and copied at once.
      let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) { pointer in
        unsafe pointer.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
      }
      if name.hasPrefix("spillway-") { names.append(name) }
    }
    return names
  }

  /// A directory for one more.
  func makeScratch() throws(JournalError) -> ScratchDirectory {
    try ScratchDirectory(in: path, goesWithParent: true)
  }

  /// The index of the state at `sequence`, if it is there and its pins are those of `epoch`; one more reader has it.
  func take(_ sequence: UInt64, epoch: UInt64) -> PastIndex? {
    lock.withLock {
      guard let found = open[sequence], found.epoch == epoch, found.failure == nil else { return nil }
      found.readers += 1
      return found
    }
  }

  /// Adds one, which has one reader. (One that was lost is only forgotten: its readers have it.)
  func add(_ index: PastIndex) { lock.withLock { open[index.sequence] = index } }

  /// A reader has left.
  func leave(_ index: PastIndex) {
    lock.withLock {
      index.readers -= 1
      if index.readers == 0, open[index.sequence] === index { open[index.sequence] = nil }
    }
  }

  /// Follows moves that the index has made. In the turn of upkeep.
  func follow(_ relocations: [Relocation]) {
    for index in lock.withLock({ Array(open.values) }) {
      do throws(JournalError) {
        try index.follow(relocations)
      } catch {
        lock.withLock { index.failure = index.failure ?? error }
      }
    }
  }

  /// Why `index` is not to be believed any more; nil while it is.
  func failure(of index: PastIndex) -> JournalError? { lock.withLock { index.failure } }

  /// What they take on disk, in bytes.
  var byteCount: UInt64 {
    lock.withLock { Array(open.values) }.reduce(0) { $0 + $1.reader.index.usedByteCount }
  }
}

/// One of them.
final class PastIndex: @unchecked Sendable {
  // Sendable: constants; `readers` and `failure` are guarded by the lock of PastIndexes.
  let sequence: UInt64
  /// See `History.pin`.
  let epoch: UInt64
  /// Reads from it; from any thread, for its index is no snapshot.
  let reader: JournalReader
  fileprivate var readers = 1
  fileprivate var failure: JournalError?

  init(sequence: UInt64, epoch: UInt64, reader: JournalReader) {
    self.sequence = sequence
    self.epoch = epoch
    self.reader = reader
  }

  /// Moves what it refers to.
  fileprivate func follow(_ relocations: [Relocation]) throws(JournalError) {
    do throws(LMDBError) {
      let layers = try reader.index.layers()
      var own: [Relocation] = []
      for relocation in relocations {
        var moved = relocation
        moved.references = try reader.index.references(to: relocation.from, relocation.header, layers)
        if !moved.references.isEmpty { own.append(moved) }
      }
      if !own.isEmpty { try reader.index.relocate(own) }
    } catch {
      throw JournalError(error)
    }
  }
}
