import BlockFile
import Bytes
import Foundation
import Synchronization
import Threads
import Zstd

private let title = "Where the physical limit lies"

/// What the machine gives at best, in the same run: nothing of the engine.
func measureLimits(_ figures: inout Figures, _ place: Workplace) throws {
  let size = 256 << 20
  let source = AlignedBuffer(byteCount: size)
  let target = AlignedBuffer(byteCount: size)
  source.raw.initializeMemory(as: UInt8.self, repeating: 7)
  target.raw.initializeMemory(as: UInt8.self, repeating: 8)
  let copied = seconds { target.raw.copyMemory(from: UnsafeRawBufferPointer(source.raw)) }
  figures.add(title, "copy of memory, one thread", "MB/s", Double(size) / 1e6 / copied)
  var sum: UInt64 = 0
  let hashed = seconds { sum = Checksum.xxh3(source.bytes, seed: 0) }
  precondition(sum != 0)
  figures.add(title, "XXH3, one thread", "MB/s", Double(size) / 1e6 / hashed)

  let directory = POSIXDirectory(path: place.path)
  let file = try directory.create("file")
  let piece = AlignedBuffer(byteCount: 8 << 20)
  piece.raw.copyMemory(from: UnsafeRawBufferPointer(rebasing: source.raw[..<(8 << 20)]))
  let total = 512 << 20
  let written = try seconds {
    for offset in stride(from: 0, to: total, by: piece.byteCount) {
      try file.write(piece, byteCount: piece.byteCount, at: UInt64(offset))
    }
    try file.sync()
  }
  figures.add(
    title, "disk: 8 MiB writes past the page cache, then fdatasync", "MB/s", Double(total) / 1e6 / written)
  var syncs: [UInt64] = []
  for index in 0..<50 {
    let start = MonotonicClock.nanoseconds()
    try file.write(piece, byteCount: 4096, at: UInt64(total + index * 4096))
    try file.sync()
    syncs.append(MonotonicClock.nanoseconds() - start)
  }
  figures.add(title, "disk: write of 4 KiB, then fdatasync", "p50 µs", Double(syncs.sorted()[25]) / 1000)
}

/// Compression of guests' data in frames of 128 KiB, by level, on one thread and on two.
func measureCompression(_ figures: inout Figures, _ place: Workplace) throws {
  let frame = 128 << 10
  let total = 64 << 20
  for level in [-5, -1, 1, 3, 6] as [Int32] {
    for threads in [1, 2] {
      let stored = Atomic<Int>(0)
      let time = try seconds {
        try compressAll(level, threads, frame, total, stored)
      }
      let name = "MB/s on \(threads) thread\(threads == 1 ? "" : "s")"
      figures.add("Compression", "zstd level \(level)", name, Double(total) / 1e6 / time)
      if threads == 1 {
        figures.add(
          "Compression", "zstd level \(level)", "stored / raw",
          Double(stored.load(ordering: .relaxed)) / Double(total))
      }
    }
  }
}

private func compressAll(
  _ level: Int32, _ threads: Int, _ frame: Int, _ total: Int, _ stored: borrowing Atomic<Int>
) throws {
  let results = try inThreads(threads) { number in
    let compressor = ZstdCompressor()
    let target = AlignedBuffer(byteCount: ZstdCompressor.bound(frame))
    var sum = 0
    try VirtualMachineData.forEach(frame, total: total) { bytes, offset in
      guard Int(offset) / frame % threads == number else { return }
      var span = target.mutableBytes
      sum += min(frame, compressor.compress(RawSpan(_unsafeBytes: bytes), into: &span, level: level) ?? frame)
    }
    return sum
  }
  stored.store(results.reduce(0, +), ordering: .relaxed)
}

private func inThreads(_ count: Int, _ body: @escaping @Sendable (Int) throws -> Int) throws -> [Int] {
  let results = Results(count)
  try inParallel(count) { number in results.set(number, try body(number)) }
  return results.all
}

private final class Results: @unchecked Sendable {
  // Sendable: guarded by `lock`.
  private let lock = Lock()
  private var values: [Int]
  init(_ count: Int) { values = [Int](repeating: 0, count: count) }
  func set(_ index: Int, _ value: Int) { lock.withLock { values[index] = value } }
  var all: [Int] { lock.withLock { values } }
}
