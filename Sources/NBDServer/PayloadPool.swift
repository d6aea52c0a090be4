internal import Bytes
internal import Threads

/// Memory for the data of reads, bounded over all connections.
///
/// A buffer is held from the moment a read looks for its data until its reply is on the wire; a parked read
/// holds none. Sizes are powers of two, and what comes back is kept for the next read of its size as long as
/// the bound allows, because fresh memory costs a page fault per 4 KiB. Who asks first is served first, so
/// that a large read is not starved by small ones. A connection whose client does not take its data would
/// hold its buffer for ever: `isWanted` tells the sender that others wait for it, and that it has to go.
final class PayloadPool: @unchecked Sendable {
  // Sendable: everything mutable is guarded by `lock`.
  private let lock = Lock()
  private let changed: Condition
  private let bytesMax: Int
  private var bytesInUse = 0
  private var bytesFree = 0
  private var free: [Int: [AlignedBuffer]] = [:]
  private var nextTicket: UInt64 = 0
  private var served: UInt64 = 0
  /// Of `bytesInUse`, what is being filled by reads that may take long, or soon will be.
  private var slowBytes = 0

  private static let smallest = 32 << 10

  /// A pool of at most `bytesMax` bytes.
  init(bytesMax: Int) {
    self.bytesMax = bytesMax
    changed = Condition(lock)
  }

  /// Whether somebody is waiting for memory.
  var isWanted: Bool { lock.withLock { nextTicket != served } }

  /// A buffer of `byteCount` bytes or more; waits for its turn. Give it back with `give`.
  func take(_ byteCount: Int) -> AlignedBuffer {
    let size = Self.size(for: byteCount)
    precondition(size <= bytesMax, "a payload is larger than the pool")
    let kept = lock.withLock { () -> AlignedBuffer? in
      let ticket = nextTicket
      nextTicket += 1
      while ticket != served || bytesInUse + size > bytesMax { changed.wait() }
      served += 1
      bytesInUse += size
      if nextTicket != served { changed.broadcast() }
      if let buffer = free[size]?.popLast() {
        bytesFree -= size
        return buffer
      }
      while bytesInUse + bytesFree > bytesMax, let (other, _) = free.first(where: { !$0.value.isEmpty }) {
        free[other]?.removeLast()
        bytesFree -= other
      }
      return nil
    }
    return kept ?? AlignedBuffer(byteCount: size)
  }

  /// As `take`, for a read that may take long to fill it. All such buffers together have half of the bound, or what one
  /// of them needs, so that reads of what is at hand never wait for a source that hangs.
  func takeSlow(_ byteCount: Int) -> AlignedBuffer {
    let size = Self.size(for: byteCount)
    lock.withLock {
      while slowBytes > 0, slowBytes + size > bytesMax / 2 { changed.wait() }
      slowBytes += size
    }
    return take(byteCount)
  }

  /// A buffer of `takeSlow` is filled, or will not be. It is still to be given back.
  func endSlow(_ buffer: AlignedBuffer) {
    lock.withLock {
      slowBytes -= buffer.byteCount
      changed.broadcast()
    }
  }

  /// Takes a buffer of `take` back.
  func give(_ buffer: AlignedBuffer) {
    lock.withLock {
      bytesInUse -= buffer.byteCount
      bytesFree += buffer.byteCount
      free[buffer.byteCount, default: []].append(buffer)
      if nextTicket != served { changed.broadcast() }
    }
  }

  private static func size(for byteCount: Int) -> Int {
    var size = smallest
    while size < byteCount { size *= 2 }
    return size
  }
}
