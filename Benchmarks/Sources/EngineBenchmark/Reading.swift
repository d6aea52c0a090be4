import Bytes
import ExtentJournal
import Foundation
import Threads

/// A whole disk from start to end, and random blocks of it, out of segments that the page cache holds.
func measureReads(_ figures: inout Figures, _ place: Workplace) throws {
  let title = "Reads of 512 MiB of guests' data"
  let total = 512 << 20
  do {
    let journal = try place.journal("reads")
    let disk = try journal.disk("d", byteCount: UInt64(total), mode: .device)
    try VirtualMachineData.forEach(256 << 10, total: total) { bytes, offset in
      try disk.write(bytes, at: offset)
    }
    try journal.close()
  }
  for (state, size) in [("cold", 64 << 10), ("cold", 256 << 10), ("warm", 64 << 10), ("warm", 256 << 10)] {
    if state == "cold" { try dropFromPageCache(place.path + "/reads/segments") }
    // Opened anew, so that the frame cache is empty.
    let journal = try place.journal("reads")
    let time = try seconds { try readInOrder(try journal.disk("d", byteCount: nil, mode: nil), size) }
    let row = "start to end in requests of \(size >> 10) KiB, 1 reader"
    figures.add(title, row, "\(state) MB/s", Double(total) / 1e6 / time)
    try journal.close()
  }
  let journal = try place.journal("reads")
  let disk = try journal.disk("d", byteCount: nil, mode: nil)
  for (name, span) in [("anywhere", total), ("within 16 MiB, from the frame cache", 16 << 20)] {
    for threads in [1, 2] {
      let count = 40_000
      let samples = Samples()
      let time = try seconds {
        try inParallel(threads) { thread in
          var random = SeededGenerator(seed: UInt64(thread))
          let owner = disk.newOwner()
          let buffer = AlignedBuffer(byteCount: 4096)
          var own: [UInt64] = []
          for _ in 0..<count / threads {
            let offset = UInt64.random(in: 0..<UInt64(span / 4096), using: &random) * 4096
            let start = MonotonicClock.nanoseconds()
            var target = buffer.mutableBytes
            let range = ByteRange(offset: offset, count: 4096)
            _ = try disk.readView(range, into: &target, since: 0, isRetry: false, owner: owner) { { _ in } }
            own.append(MonotonicClock.nanoseconds() - start)
          }
          samples.add(own)
        }
      }
      let row = "4 KiB \(name), \(threads) thread\(threads == 1 ? "" : "s")"
      figures.add("Random reads", row, "reads/s ×1000", Double(count) / 1000 / time)
      figures.add("Random reads", row, latencies: samples.all)
    }
  }
  try journal.close()
  try place.delete("reads")
}

private func readInOrder(_ disk: Disk, _ size: Int) throws {
  let owner = disk.newOwner()
  let buffer = AlignedBuffer(byteCount: size)
  for offset in stride(from: 0, to: Int(disk.byteCount), by: size) {
    var target = buffer.mutableBytes
    let range = ByteRange(offset: UInt64(offset), count: UInt64(size))
    _ = try disk.readView(range, into: &target, since: 0, isRetry: false, owner: owner) { { _ in } }
  }
  disk.dropParked(owner: owner)
}

private func dropFromPageCache(_ directory: String) throws {
  for name in try FileManager.default.contentsOfDirectory(atPath: directory) {
    let file = try FileHandle(forReadingFrom: URL(fileURLWithPath: "\(directory)/\(name)"))
    posix_fadvise(file.fileDescriptor, 0, 0, POSIX_FADV_DONTNEED)
    try file.close()
  }
}

/// Reads that wait for what has not arrived.
func measureParked(_ figures: inout Figures, _ place: Workplace) throws {
  let journal = try place.journal("parked")
  let diskByteCount: UInt64 = 1 << 30
  let disk = try journal.disk("d", byteCount: diskByteCount, mode: .snapshot)
  let title = "Reads that wait"
  try figures.add(title, "one, from its commit to its bytes, on another thread", latencies: handOvers(disk))

  let count: UInt64 = 100_000
  let buffer = AlignedBuffer(byteCount: 4096)
  let woken = Samples()
  let owner = disk.newOwner()
  let before = try anonymousMebibytes()
  let parking = try seconds {
    for number in 0..<count {
      let range = ByteRange(offset: (512 << 20) + number * 4096, count: 4096)
      var target = buffer.mutableBytes
      let read = try disk.readView(range, into: &target, since: 1, isRetry: false, owner: owner) {
        { _ in woken.add(1) }
      }
      guard case .parked = read else { throw Failure("a read of nothing was served") }
    }
  }
  let after = try anonymousMebibytes()
  // One write of one block while all wait: what they cost a writer.
  var writes: [UInt64] = []
  for number in 0..<1000 as Range<UInt64> {
    let start = MonotonicClock.nanoseconds()
    try disk.write(UnsafeRawBufferPointer(buffer.raw), at: (512 << 20) + number * 4096)
    writes.append(MonotonicClock.nanoseconds() - start)
  }
  figures.add(title, "a 4 KiB write that wakes one of them", latencies: writes)
  let rest = ByteRange(offset: (512 << 20) + 1000 * 4096, count: (count - 1000) * 4096)
  let waking = try seconds { try disk.writeZeroes(rest, mayTrim: false, durable: false).wake() }
  guard woken.all.count == Int(count) else { throw Failure("\(woken.all.count) reads were woken") }
  let crowd = "100,000 at once"
  figures.add(crowd, "100,000 reads of 4 KiB", "to park, ms", parking * 1000)
  figures.add(
    crowd, "100,000 reads of 4 KiB", "memory, bytes each", (after - before) * Double(1 << 20) / Double(count))
  figures.add(crowd, "100,000 reads of 4 KiB", "to wake all by one write of zeroes, ms", waking * 1000)
  try journal.close()
}

/// Parks a read, writes what it waits for, and takes the time from the commit's return until the reader has the bytes.
private func handOvers(_ disk: Disk) throws -> [UInt64] {
  let turns = 2000
  let meeting = Handover()
  let samples = Samples()
  let payload = [UInt8](repeating: 5, count: 4096)
  let reader = WorkerThread(name: "reader") {
    let buffer = AlignedBuffer(byteCount: 4096)
    for turn in 0..<UInt64(turns) {
      let range = ByteRange(offset: turn * 8192, count: 4096)
      var isRetry = false
      while true {
        var target = buffer.mutableBytes
        let read = try? disk.readView(range, into: &target, since: 1, isRetry: isRetry, owner: 0) {
          { _ in meeting.wake() }
        }
        guard case .parked? = read else { break }
        isRetry = true
        meeting.park()
      }
      samples.add(MonotonicClock.nanoseconds() - meeting.writtenAt)
    }
  }
  for turn in 0..<UInt64(turns) {
    meeting.waitUntilParked()
    let slot = try disk.reserve(ByteRange(offset: turn * 8192, count: 4096))
    slot.memory.copyBytes(from: payload)
    let arrivals = try slot.commit(durable: false)
    meeting.note(MonotonicClock.nanoseconds())
    arrivals.wake()
  }
  reader?.join()
  return samples.all
}

/// Where the reader and the writer of `handOvers` wait for each other.
private final class Handover: @unchecked Sendable {
  // Sendable: guarded by `lock`.
  private let lock = Lock()
  private let changed: Condition
  private var isParked = false
  private var isWoken = false
  private var written: UInt64 = 0

  init() { changed = Condition(lock) }

  var writtenAt: UInt64 { lock.withLock { written } }
  func note(_ time: UInt64) { lock.withLock { written = time } }

  func wake() {
    lock.withLock {
      isWoken = true
      changed.broadcast()
    }
  }

  func park() {
    lock.withLock {
      isParked = true
      changed.broadcast()
      while !isWoken { changed.wait() }
      isWoken = false
      isParked = false
    }
  }

  func waitUntilParked() { lock.withLock { while !isParked || isWoken { changed.wait() } } }
}
