internal import Bytes

/// A read that waits for sectors to arrive. It is woken by whoever takes it out of the ledger, and only one can.
final class ParkedRead: Sendable {
  /// The sectors whose arrival lets the read go on.
  let range: SectorRange
  /// When the request came in (nanoseconds of MonotonicClock).
  let since: UInt64
  /// Who asked: all reads of one owner can be dropped together.
  let owner: UInt64
  let wake: @Sendable (ParkWake) -> Void

  init(range: SectorRange, since: UInt64, owner: UInt64, wake: @escaping @Sendable (ParkWake) -> Void) {
    self.range = range
    self.since = since
    self.owner = owner
    self.wake = wake
  }
}

/// Why a parked read is woken.
package enum ParkWake: Sendable {
  /// Look again.
  case retry
  /// It waited too long.
  case timedOut
}

/// The parked reads of one layer, by the region of the first sector that each waits for. Guarded by the ledger's
/// lock.
struct ParkedReads {
  private var byRegion: [UInt64: [ParkedRead]] = [:]

  mutating func add(_ read: ParkedRead) {
    byRegion[read.range.start / Region.sectorCount, default: []].append(read)
  }

  /// Takes out the reads that wait for a sector of `range`. A read waits on its first missing sector: nothing
  /// before the whole run has arrived helps it, and its later parts are looked at when it is woken.
  mutating func take(overlapping range: SectorRange) -> [ParkedRead] {
    guard !byRegion.isEmpty else { return [] }
    let regions = Region.indices(range)
    var taken: [ParkedRead] = []
    // A zero over terabytes touches more regions than there are reads.
    let candidates = regions.count > byRegion.count ? byRegion.keys.filter(regions.contains) : Array(regions)
    for region in candidates {
      guard let reads = byRegion[region] else { continue }
      let rest = reads.filter { read in
        let hit = range.start <= read.range.start && read.range.start < range.end
        if hit { taken.append(read) }
        return !hit
      }
      byRegion[region] = rest.isEmpty ? nil : rest
    }
    return taken
  }

  mutating func takeAll() -> [ParkedRead] {
    defer { byRegion = [:] }
    return byRegion.values.flatMap { $0 }
  }

  /// Takes out the reads that meet `condition`.
  mutating func take(where condition: (ParkedRead) -> Bool) -> [ParkedRead] {
    var taken: [ParkedRead] = []
    for (region, reads) in byRegion where reads.contains(where: condition) {
      taken += reads.filter(condition)
      let rest = reads.filter { !condition($0) }
      byRegion[region] = rest.isEmpty ? nil : rest
    }
    return taken
  }

  /// When the read that has waited longest came in.
  var oldest: UInt64? { byRegion.values.lazy.flatMap { $0 }.map(\.since).min() }
}
