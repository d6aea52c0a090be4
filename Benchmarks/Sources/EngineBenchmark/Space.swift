import Bytes
import ExtentJournal
import Foundation
import Threads

/// What overwrites cost while they go on for long: bytes on disk beside what is live, and bytes written beside those first
/// stored.
///
/// The disk is written once, then over and over at random, paced so that a machine of two cores keeps up; what lies on disk is
/// looked at all the while of the second half. "Live" is what all of it takes at the end, when nothing is dead; "idle" is when
/// upkeep has come to rest by itself.
func measureSteadySpace(_ figures: inout Figures, _ place: Workplace) throws {
  let title = "Overwrites that go on"
  let workloads: [(name: String, size: Int, live: Int, times: Int, bytesPerSecond: Double)] = [
    ("64 KiB, 1 GiB of disk, 4 times over", 64 << 10, 1 << 30, 4, 200e6),
    ("4 KiB, 512 MiB of disk, 4 times over", 4 << 10, 512 << 20, 4, 40e6),
  ]
  for workload in workloads {
    let journal = try place.journal("space")
    let disk = try journal.disk("d", byteCount: UInt64(workload.live), mode: .device)
    try VirtualMachineData.forEach(256 << 10, total: workload.live) { bytes, offset in
      try disk.write(bytes, at: offset)
    }
    try journal.flush()
    try rest(journal)
    let before = try (journal.status().storedBytes, journal.spaceStatus().upkeep.writtenBytes)
    let segments = try overwrite(disk, workload.size, workload.live, workload.times, workload.bytesPerSecond)
    {
      try journal.spaceStatus().segmentBytes
    }
    try journal.flush()
    try rest(journal)
    let (status, space) = try (journal.status(), journal.spaceStatus())
    let live = Double(space.liveBytes)
    let first = Double(status.storedBytes - before.0)
    let half = segments.suffix(segments.count / 2).sorted()
    guard let largest = half.last else { throw Failure("too short to be measured") }
    figures.add(title, workload.name, "live MiB", live / Double(1 << 20))
    figures.add(title, workload.name, "on disk / live, median", Double(half[half.count / 2]) / live)
    figures.add(title, workload.name, "at most", Double(largest) / live)
    figures.add(title, workload.name, "idle", Double(space.segmentBytes) / live)
    figures.add(
      title, workload.name, "written / first stored",
      (first + Double(space.upkeep.writtenBytes - before.1)) / first)
    figures.add(title, workload.name, "index MiB", Double(status.indexBytes) / Double(1 << 20))
    figures.add(title, workload.name, "runs punched", Double(space.upkeep.punchedRuns))
    figures.add(title, workload.name, "segments compacted", Double(space.upkeep.compactedSegments))
    try journal.close()
    try place.delete("space")
  }
}

/// Writes pieces of `size` bytes at random places until `live` bytes were written `times` times. Returns what `look` said,
/// twice a second.
private func overwrite(
  _ disk: Disk, _ size: Int, _ live: Int, _ times: Int, _ bytesPerSecond: Double, look: () throws -> UInt64
) throws -> [UInt64] {
  var random = SeededGenerator(seed: 5)
  var seen: [UInt64] = []
  let start = MonotonicClock.nanoseconds()
  var nextLook = start
  var written = 0
  let source = VirtualMachineData.bytes
  try source.withUnsafeBytes { raw in
    while written < live * times {
      let from = Int.random(in: 0..<raw.count / size, using: &random) * size
      let offset = UInt64.random(in: 0..<UInt64(live / size), using: &random) * UInt64(size)
      try disk.write(UnsafeRawBufferPointer(rebasing: raw[from..<from + size]), at: offset)
      written += size
      let now = MonotonicClock.nanoseconds()
      if now >= nextLook {
        seen.append(try look())
        nextLook = now + 500_000_000
      }
      let due = start + UInt64(Double(written) / bytesPerSecond * 1e9)
      if due > now + 1_000_000 { usleep(UInt32((due - now) / 1000)) }
    }
  }
  return seen
}

/// Waits until upkeep, by itself, has done nothing for three of its looks.
private func rest(_ journal: Journal) throws {
  var last = UpkeepReport()
  var quiet = 0
  while quiet < 7 {
    usleep(1_000_000)
    let now = try journal.spaceStatus().upkeep
    quiet = now == last ? quiet + 1 : 0
    last = now
  }
}
