internal import BlockFile
internal import Bytes
internal import Threads

// Blocks that are kept for upkeep: a file of two segments' size, which holds nothing.
//
// What writers are admitted to leaves the reserve free (SpaceAccount), but others write to the same filesystem. When they
// have taken the last block, nothing could be given back any more, for to free space something must be written first.
// Then upkeep gives the file up and goes on in its place; it takes the blocks again when there is room.
//
// Only a journal that is large keeps them: in a small one they would be most of it.

/// The file of kept blocks. Upkeep takes them and lets them go; any thread may ask how many there are.
final class SpaceReserve: @unchecked Sendable {
  // Sendable: `held` is guarded by `lock`, under which there is no I/O; the rest is upkeep's, which is one at a time.
  private let files: any FileStore
  private let wantedByteCount: UInt64
  private let ownedBytesMin: UInt64
  private let lock = Lock()
  private var held: UInt64
  private var isPossible = true

  /// Beside the segments; its name is none that a segment has.
  static let name = "reserve"

  /// `byteCount` bytes for a journal that takes `ownedBytesMin` or more. What another process has kept is taken over.
  init(_ files: any FileStore, byteCount: UInt64, ownedBytesMin: UInt64) {
    self.files = files
    wantedByteCount = byteCount
    self.ownedBytesMin = ownedBytesMin
    do throws(FileError) { held = try files.allocatedByteCount(Self.name) } catch { held = 0 }
  }

  /// What it takes on disk, in bytes.
  var byteCount: UInt64 { lock.withLock { held } }

  /// Takes the blocks, for a journal that takes `ownedBytes` without them, if `availableBytes` are left for writers; or lets
  /// them go when the journal has become small. What cannot be had now is tried again at the next call.
  func adapt(ownedBytes: UInt64, availableBytes: UInt64) {
    if ownedBytes < ownedBytesMin / 2 {
      giveUp()
      return
    }
    // Writers lose nothing by it: the file takes the place of what was kept free.
    guard ownedBytes >= ownedBytesMin, availableBytes > 0, byteCount == 0, isPossible else { return }
    do throws(FileError) {
      try files.create(Self.name).allocate(wantedByteCount)
      let taken = try files.allocatedByteCount(Self.name)
      lock.withLock { held = taken }
    } catch {
      isPossible = !error.isUnsupported
      remove()
    }
  }

  /// Gives the blocks back to the filesystem. False when there were none.
  @discardableResult
  func giveUp() -> Bool { byteCount > 0 && remove() }

  @discardableResult
  private func remove() -> Bool {
    do throws(FileError) { try files.unlink(Self.name) } catch { return false }
    lock.withLock { held = 0 }
    return true
  }
}
