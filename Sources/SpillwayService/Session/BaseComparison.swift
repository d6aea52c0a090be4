internal import Bytes
internal import ExtentJournal
internal import NBDSource

/// Looks whether the live disk still is, outside the bitmap, what an incremental's base holds.
///
/// qemu knows the bitmap of a base by the name of the generation alone. If the node is another disk than the base was made
/// of, or the bitmap another journal's, everything that the bitmap does not mark would silently be wrong. A few hundred
/// clusters tell: by the bitmap they have not changed, so that those which differ must have been written since the
/// moment, which the new bitmap knows.
struct BaseComparison {
  private let disk: Disk
  private let clean: [ByteRange]

  /// Clusters that are looked at, at most.
  static let clusterCountMax: UInt64 = 256
  /// Bytes that a bit of a bitmap stands for.
  static let clusterByteCount: UInt64 = 65536

  /// Of `disk`, whose generation has what lies outside the bitmap, `clean`, fall to its base.
  init(_ disk: Disk, clean: [ByteRange]) {
    self.disk = disk
    self.clean = clean
  }

  /// How many of the clusters that were looked at differ on the live disk `source`.
  func differing(from source: NBDSource) throws(ServiceError) -> Int {
    var count = 0
    for cluster in chosen() where try differs(cluster, source) { count += 1 }
    return count
  }

  private func chosen() -> [ByteRange] {
    let size = Self.clusterByteCount
    let counts = clean.map { range -> UInt64 in
      let first = (range.start + size - 1) / size
      return max(range.end / size, first) - first
    }
    let all = counts.reduce(0, +)
    var numbers = Set<UInt64>()
    for number in 0..<min(all, Self.clusterCountMax) {
      numbers.insert(all <= Self.clusterCountMax ? number : UInt64.random(in: 0..<all))
    }
    var result: [ByteRange] = []
    var before: UInt64 = 0
    var sorted = numbers.sorted()[...]
    for (range, count) in zip(clean, counts) {
      while let number = sorted.first, number < before + count {
        let start = (range.start + size - 1) / size * size + (number - before) * size
        result.append(ByteRange(start: start, end: start + size))
        sorted.removeFirst()
      }
      before += count
    }
    return result
  }

  private func differs(_ cluster: ByteRange, _ source: NBDSource) throws(ServiceError) -> Bool {
    let live = AlignedBuffer(byteCount: Int(cluster.count))
    let base = AlignedBuffer(byteCount: Int(cluster.count))
    do throws(SourceError) {
      var target = live.mutableBytes
      try source.read(cluster, into: &target)
    } catch {
      throw .failed("the live disk of \(disk.name) cannot be compared with its base: \(error.message)")
    }
    try reportingJournalErrors { () throws(JournalError) in
      var target = base.mutableBytes
      for run in try disk.readIngest(cluster, into: &target) where run.isZero {
        var part = target._mutatingExtracting(
          Int(run.range.start - cluster.start)..<Int(run.range.end - cluster.start))
        part.zero()
      }
    }
    return !live.bytes.equals(base.bytes)
  }
}
