internal import Bytes
internal import Threads

/// Locks over the regions of all disks: whoever compares what is there with what comes, and then writes, holds the
/// locks of the regions it touches, so that the two are one step.
///
/// 256 locks are shared by all regions. They are always taken in ascending order, so two writers cannot wait for each
/// other. I/O is allowed inside: nothing but writers to the same regions waits.
final class RegionLocks: Sendable {
  private let locks: [Lock] = (0..<256).map { _ in Lock() }

  /// Runs `body` while holding the locks of the regions that `range` of `layer` touches.
  func withLocks<Result>(
    _ layer: LayerKey, _ range: SectorRange, _ body: () throws(JournalError) -> Result
  ) throws(JournalError) -> Result {
    let held = indices(layer, range)
    for index in held { locks[index].lock() }
    defer { for index in held.reversed() { locks[index].unlock() } }
    return try body()
  }

  private func indices(_ layer: LayerKey, _ range: SectorRange) -> [Int] {
    let regions = Region.indices(range)
    if regions.count >= locks.count { return Array(locks.indices) }
    // Neighbouring regions get neighbouring locks, so that a run of regions takes each lock once.
    let shift = Int(layer.disk.number &* 31 &+ layer.generation.number)
    return regions.map { Int(($0 + UInt64(shift)) % UInt64(locks.count)) }.sorted()
  }
}
