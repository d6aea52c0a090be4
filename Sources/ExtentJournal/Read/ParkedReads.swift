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

/// The parked reads of one layer, by the first sector that each waits for, these by region. Guarded by the ledger's
/// lock, which writers want: nothing that a write does here takes longer the more reads wait elsewhere.
struct ParkedReads {
  private var byRegion: [UInt64: [UInt64: [ParkedRead]]] = [:]
  /// No read here came in earlier.
  private var oldestBound = UInt64.max

  /// Whether it may be the oldest: whoever watches for timeouts must then look again.
  mutating func add(_ read: ParkedRead) -> Bool {
    let sector = read.range.start
    byRegion[sector / Region.sectorCount, default: [:]][sector, default: []].append(read)
    defer { oldestBound = min(oldestBound, read.since) }
    return read.since < oldestBound
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
      guard let sectors = byRegion[region]?.keys.filter({ range.start <= $0 && $0 < range.end }) else {
        continue
      }
      for sector in sectors { taken += byRegion[region]?.removeValue(forKey: sector) ?? [] }
      if byRegion[region]?.isEmpty ?? false { byRegion[region] = nil }
    }
    return taken
  }

  mutating func takeAll() -> [ParkedRead] {
    defer {
      byRegion = [:]
      oldestBound = .max
    }
    return byRegion.values.flatMap { $0.values.flatMap { $0 } }
  }

  /// Takes out the reads that meet `condition`.
  mutating func take(where condition: (ParkedRead) -> Bool) -> [ParkedRead] {
    var taken: [ParkedRead] = []
    for (region, sectors) in byRegion {
      for (sector, reads) in sectors where reads.contains(where: condition) {
        taken += reads.filter(condition)
        let rest = reads.filter { !condition($0) }
        byRegion[region]?[sector] = rest.isEmpty ? nil : rest
      }
      if byRegion[region]?.isEmpty ?? false { byRegion[region] = nil }
    }
    return taken
  }

  /// When the read that has waited longest came in. From here on `add` says when an older one comes.
  mutating func findOldest() -> UInt64? {
    oldestBound = .max
    for sectors in byRegion.values {
      for reads in sectors.values {
        for read in reads { oldestBound = min(oldestBound, read.since) }
      }
    }
    return oldestBound == .max ? nil : oldestBound
  }
}
