import Bytes
import ExtentJournal
import Foundation
import Threads

private let title = "Index"
/// Fewer than let the journal commit by itself.
private let perCommit = 90_000

/// Inserts and lookups, ordered extents of 64 KiB and random ones of 4 KiB, and what they take. The extents are zeroes:
/// their entries are those of data, and nothing else is measured. An insert is timed from a written segment to the
/// durable commit of the index.
func measureIndex(_ figures: inout Figures, _ place: Workplace) throws {
  try measure(
    &figures, place, "ordered, 64 KiB", blockByteCount: 64 << 10, count: 12 * perCommit, isRandom: false)
  try measure(
    &figures, place, "random, 4 KiB of 64 GiB", blockByteCount: 4 << 10, count: 6 * perCommit, isRandom: true)
}

private func measure(
  _ figures: inout Figures, _ place: Workplace, _ row: String, blockByteCount: UInt64, count: Int,
  isRandom: Bool
) throws {
  let journal = try place.journal("index", spoolByteCount: 64 << 20)
  // Twice the blocks, so that ordered extents do not touch and stay extents.
  let byteCount: UInt64 = isRandom ? 64 << 30 : UInt64(count) * 2 * blockByteCount
  let disk = try journal.disk("d", byteCount: byteCount, mode: .device)
  try journal.checkpoint()
  let indexBytes = try journal.status().indexBytes
  var random = SeededGenerator(seed: 1)
  var places: [UInt64] = []
  places.reserveCapacity(count)
  for number in 0..<UInt64(count) {
    places.append(
      (isRandom ? UInt64.random(in: 0..<byteCount / blockByteCount, using: &random) : number * 2)
        * blockByteCount)
  }
  var committing = 0.0
  for start in stride(from: 0, to: count, by: perCommit) {
    for offset in places[start..<start + perCommit] {
      try disk.writeZeroes(ByteRange(offset: offset, count: blockByteCount), mayTrim: false, durable: false)
        .wake()
    }
    try journal.spill()
    committing += try seconds { try journal.checkpoint() }
  }
  figures.add(title, row, "inserts/s ×1000", Double(count) / 1000 / committing)
  let grown = try journal.status().indexBytes - indexBytes
  figures.add(title, row, "bytes per extent", Double(grown) / Double(Set(places).count))

  let looked = 200_000
  let buffer = AlignedBuffer(byteCount: 4096)
  for threads in [1, 2] {
    let time = try seconds {
      try inParallel(threads) { thread in
        var random = SeededGenerator(seed: UInt64(thread))
        let own = AlignedBuffer(byteCount: buffer.byteCount)
        for _ in 0..<looked / threads {
          let offset = UInt64.random(in: 0..<byteCount / 4096, using: &random) * 4096
          try disk.read(ByteRange(offset: offset, count: 4096), own)
        }
      }
    }
    figures.add(
      title, row, "lookups/s ×1000, \(threads) thread\(threads == 1 ? "" : "s")", Double(looked) / 1000 / time
    )
  }
  try journal.close()
  try place.delete("index")
}
