public import Bytes

// What holds which sectors, newest first: an ordered map from disjoint runs of sectors to values.
//
// Inserting carves: whatever was there before gives way, and what sticks out on either side stays, with its value
// moved along. Neighbours whose values continue each other become one entry, so a disk of zeroes is one entry.
//
// Entries lie in sorted chunks of at most 256, and the chunks in a sorted array: a search is two binary searches,
// an insertion moves at most one chunk and, rarely, the array of chunks. Against a balanced tree it wins by having
// nothing to balance and by lying densely in memory; with a million entries (4,000 chunks) an insertion moves
// 6 KiB and, at a split, 32 KiB of chunk references.

/// A value that a run of sectors can have.
@usableFromInline
package protocol ExtentValue: Equatable, Sendable {
  /// The value for the same run without its first `sectors` sectors.
  func advanced(by sectors: UInt64) -> Self
}

/// Disjoint runs of sectors with a value each, in order. See the note at the top of the file.
@usableFromInline
package struct ExtentMap<Value: ExtentValue>: Sendable {
  @usableFromInline
  struct Entry: Sendable {
    @usableFromInline var start: UInt64
    @usableFromInline var end: UInt64
    @usableFromInline var value: Value

    @inlinable
    init(start: UInt64, end: UInt64, value: Value) {
      self.start = start
      self.end = end
      self.value = value
    }
  }

  /// Most entries of one chunk.
  @usableFromInline static var chunkMax: Int { 256 }

  @usableFromInline var chunks: [[Entry]] = []
  /// The start of each chunk's first entry, for the search.
  @usableFromInline var firsts: [UInt64] = []
  /// How many entries there are.
  @usableFromInline package internal(set) var count = 0

  /// An empty map.
  @inlinable
  package init() {}

  /// Whether no sector has a value.
  @inlinable
  package var isEmpty: Bool { count == 0 }

  /// Sets `range` to `value`; what was there before is gone.
  @inlinable
  package mutating func insert(_ range: SectorRange, _ value: Value) {
    guard !range.isEmpty else { return }
    remove(range)
    guard let chunk = chunkIndex(for: range.start) else {
      chunks.append([Entry(start: range.start, end: range.end, value: value)])
      firsts.append(range.start)
      count = 1
      return
    }
    let index = lowerBound(chunk, range.start)
    if index > 0, continues(chunks[chunk][index - 1], at: range.start, value) {
      chunks[chunk][index - 1].end = range.end
      if index < chunks[chunk].count {
        let behind = chunks[chunk][index]
        if continues(chunks[chunk][index - 1], at: behind.start, behind.value) {
          chunks[chunk][index - 1].end = behind.end
          chunks[chunk].remove(at: index)
          count -= 1
        }
      }
      return
    }
    let entry = Entry(start: range.start, end: range.end, value: value)
    if index < chunks[chunk].count,
      continues(entry, at: chunks[chunk][index].start, chunks[chunk][index].value)
    {
      chunks[chunk][index].start = entry.start
      chunks[chunk][index].value = value
    } else {
      chunks[chunk].insert(entry, at: index)
      count += 1
    }
    firsts[chunk] = chunks[chunk][0].start
    if chunks[chunk].count > Self.chunkMax { split(chunk) }
  }

  /// Forgets `range`.
  @inlinable
  package mutating func remove(_ range: SectorRange) {
    remove(range) { _ in true }
  }

  /// Forgets the parts of `range` whose value meets `condition`.
  @inlinable
  package mutating func remove(_ range: SectorRange, where condition: (Value) -> Bool) {
    guard !range.isEmpty, var chunk = chunkIndex(for: range.start) else { return }
    while chunk < chunks.count, firsts[chunk] < range.end {
      let low = lowerBound(chunk, range.start)
      var high = low
      var kept: [Entry] = []
      var changed = false
      while high < chunks[chunk].count, chunks[chunk][high].start < range.end {
        let entry = chunks[chunk][high]
        if condition(entry.value) {
          changed = true
          if entry.start < range.start {
            kept.append(Entry(start: entry.start, end: range.start, value: entry.value))
          }
          if entry.end > range.end {
            kept.append(
              Entry(
                start: range.end, end: entry.end, value: entry.value.advanced(by: range.end - entry.start)))
          }
        } else {
          kept.append(entry)
        }
        high += 1
      }
      guard changed else {
        chunk += 1
        continue
      }
      count += kept.count - (high - low)
      chunks[chunk].replaceSubrange(low..<high, with: kept)
      if chunks[chunk].isEmpty {
        chunks.remove(at: chunk)
        firsts.remove(at: chunk)
      } else {
        firsts[chunk] = chunks[chunk][0].start
        if chunks[chunk].count > Self.chunkMax {
          split(chunk)
          chunk += 1
        }
        chunk += 1
      }
    }
  }

  /// The first sector at or behind `sector` that has a value.
  @inlinable
  package func firstSector(from sector: UInt64) -> UInt64? {
    guard var chunk = chunkIndex(for: sector) else { return nil }
    var index = lowerBound(chunk, sector)
    if index == chunks[chunk].count { (chunk, index) = (chunk + 1, 0) }
    return chunk < chunks.count ? max(sector, chunks[chunk][index].start) : nil
  }

  /// Calls `body` for each piece of `range` that has a value, in order, cut to `range`.
  @inlinable
  package func forEach<Failure: Error>(
    in range: SectorRange, _ body: (SectorRange, Value) throws(Failure) -> Void
  ) throws(Failure) {
    guard !range.isEmpty, var chunk = chunkIndex(for: range.start) else { return }
    var index = lowerBound(chunk, range.start)
    while chunk < chunks.count {
      while index < chunks[chunk].count {
        let entry = chunks[chunk][index]
        guard entry.start < range.end else { return }
        let low = max(entry.start, range.start)
        let value = low == entry.start ? entry.value : entry.value.advanced(by: low - entry.start)
        try body(SectorRange(start: low, end: min(entry.end, range.end)), value)
        index += 1
      }
      chunk += 1
      index = 0
    }
  }

  /// Calls `body` for every entry, in order.
  @inlinable
  package func forEach<Failure: Error>(
    _ body: (SectorRange, Value) throws(Failure) -> Void
  ) throws(Failure) {
    for chunk in chunks {
      for entry in chunk {
        try body(SectorRange(start: entry.start, end: entry.end), entry.value)
      }
    }
  }

  /// The last chunk that starts at or before `start`, or the first; nil when the map is empty.
  @inlinable
  func chunkIndex(for start: UInt64) -> Int? {
    guard !firsts.isEmpty else { return nil }
    var low = 0
    var high = firsts.count
    while low < high {
      let middle = (low + high) / 2
      if firsts[middle] <= start { low = middle + 1 } else { high = middle }
    }
    return max(low - 1, 0)
  }

  /// The first entry of `chunk` that ends after `start`.
  @inlinable
  func lowerBound(_ chunk: Int, _ start: UInt64) -> Int {
    var low = 0
    var high = chunks[chunk].count
    while low < high {
      let middle = (low + high) / 2
      if chunks[chunk][middle].end <= start { low = middle + 1 } else { high = middle }
    }
    return low
  }

  /// Whether `value` at `start` only carries on what `entry` says.
  @inlinable
  func continues(_ entry: Entry, at start: UInt64, _ value: Value) -> Bool {
    entry.end == start && entry.value.advanced(by: entry.end - entry.start) == value
  }

  @inlinable
  mutating func split(_ chunk: Int) {
    let half = chunks[chunk].count / 2
    let tail = Array(chunks[chunk][half...])
    chunks[chunk].removeSubrange(half...)
    chunks.insert(tail, at: chunk + 1)
    firsts.insert(tail[0].start, at: chunk + 1)
  }
}
