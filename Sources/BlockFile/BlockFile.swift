package import Bytes

// The waist: everything the engine does to segment files passes these two protocols, so that a test can stand a
// simulated disk behind them and a remote store can take their place. Nothing above may assume a local path.
// (The index is LMDB's and the spool ring is a mapping: those two go past the waist by their nature.)

/// A flat set of named files.
package protocol FileStore: Sendable {
  /// The names of all files, in no order.
  func list() throws(FileError) -> [String]
  /// Creates the file `name`, which must not exist. It is durable only after `syncNames`.
  func create(_ name: String) throws(FileError) -> any BlockFile
  /// Opens the file `name`.
  func open(_ name: String) throws(FileError) -> any BlockFile
  /// What the file `name` takes on disk, in bytes (less than its size when it has holes).
  func allocatedByteCount(_ name: String) throws(FileError) -> UInt64
  /// Removes the file `name`. Durable only after `syncNames`.
  func unlink(_ name: String) throws(FileError)
  /// Makes creations and removals durable.
  func syncNames() throws(FileError)
  /// How much room there is for files.
  func space() throws(FileError) -> FileSpace
}

extension FileStore {
  /// A store that knows no bound has room for whatever comes.
  package func space() throws(FileError) -> FileSpace { .unlimited }
}

/// The room that a store has for files.
package struct FileSpace: Sendable, Equatable {
  /// What could still be written, in bytes.
  package var freeByteCount: UInt64
  /// What it has in all, in bytes.
  package var totalByteCount: UInt64

  /// Unchecked: more may be free than there is.
  package init(freeByteCount: UInt64, totalByteCount: UInt64) {
    self.freeByteCount = freeByteCount
    self.totalByteCount = totalByteCount
  }

  /// No bound that anybody knows.
  package static let unlimited = FileSpace(freeByteCount: .max, totalByteCount: .max)
}

/// One file. Reads and writes may run on several threads at once; overlapping ones are the caller's affair.
package protocol BlockFile: AnyObject, Sendable {
  /// The current size in bytes.
  func byteCount() throws(FileError) -> UInt64
  /// Reads at `offset` until `target` is full or the file ends; returns how many bytes came.
  func read(into target: inout MutableRawSpan, at offset: UInt64) throws(FileError) -> Int
  /// Writes all of `buffer`'s first `byteCount` bytes at `offset`; both are multiples of 4096. Not durable before
  /// `sync`. After an error any part may have been written.
  func write(_ buffer: AlignedBuffer, byteCount: Int, at offset: UInt64) throws(FileError)
  /// Makes everything written so far durable. After an error nothing may be assumed, and it must not be retried.
  func sync() throws(FileError)
  /// Gives the space of `range` back (its bounds are multiples of 4096); it reads as zeroes from then on, and the size
  /// stays. Durable at `sync`; until then a power cut may leave any part of it as it was. Where the store cannot do it
  /// the error says so (`isUnsupported`) and nothing has changed.
  func punch(_ range: Range<UInt64>) throws(FileError)
  /// Whether something of `range` is a hole. A store that cannot tell looks for blocks of zeroes.
  func hasHole(in range: Range<UInt64>) throws(FileError) -> Bool
  /// Cuts the file to `byteCount` bytes.
  func truncate(to byteCount: UInt64) throws(FileError)
  /// Has the store give the file blocks for its first `byteCount` bytes, which read as zeroes where nothing was written. Where
  /// the store cannot do it the error says so (`isUnsupported`). Not durable before `sync`.
  func allocate(_ byteCount: UInt64) throws(FileError)
}

extension BlockFile {
  /// Looks for whole blocks of 4096 zeroes: what a hole reads as.
  package func hasHole(in range: Range<UInt64>) throws(FileError) -> Bool {
    let block = AlignedBuffer(byteCount: AlignedBuffer.alignment)
    let size = UInt64(block.byteCount)
    for offset in stride(
      from: (range.lowerBound + size - 1) / size * size, to: range.upperBound, by: Int(size))
    where offset + size <= range.upperBound {
      var target = block.mutableBytes
      guard try read(into: &target, at: offset) == block.byteCount, !block.bytes.isAllZero else {
        return true
      }
    }
    return false
  }

  /// Says that it cannot be done: for stores that know no blocks.
  package func allocate(_ byteCount: UInt64) throws(FileError) {
    throw FileError(operation: "fallocate", path: "", errno: 95)
  }
}

/// A failed operation on a file: what an operator needs to know.
package struct FileError: Error, Sendable, CustomStringConvertible {
  /// The call that failed, as the manual names it.
  package var operation: String
  /// The file, as its owner names it.
  package var path: String
  /// Where in the file, in bytes, when the operation has a place.
  package var offset: UInt64?
  /// The error number; 0 when the system gave none (a short write).
  package var errno: Int32

  /// Take `errno` before any other call can change it.
  package init(operation: String, path: String, offset: UInt64? = nil, errno: Int32) {
    self.operation = operation
    self.path = path
    self.offset = offset
    self.errno = errno
  }

  /// Whether the filesystem or a limit has no room (ENOSPC, EDQUOT, EFBIG): space may return.
  package var isNoSpace: Bool { SystemError.isNoSpace(errno) }

  /// Whether the store can do no such thing (EOPNOTSUPP, ENOSYS).
  package var isUnsupported: Bool { errno == 95 || errno == 38 }

  /// Whether there is no such file (ENOENT).
  package var isMissing: Bool { errno == 2 }

  package var description: String {
    let place = offset.map { " at offset \($0)" } ?? ""
    return "\(operation) \(path)\(place): \(SystemError.text(errno))"
  }
}
