import Bytes
import ExtentJournal
import Foundation
import Threads

/// Acknowledgements in process: room in the ring, the copy that a socket would do, and the commit.
func measureAcks(_ figures: inout Figures, _ place: Workplace) throws {
  for (name, size, count) in [("64 KiB", 64 << 10, 8_000), ("4 KiB", 4 << 10, 50_000)] {
    for inFlight in [1, 16] {
      let journal = try place.journal("acks")
      let diskByteCount: UInt64 = 4 << 30
      let disk = try journal.disk("d", byteCount: diskByteCount, mode: .device)
      let samples = Samples()
      try inParallel(inFlight) { thread in
        var random = SeededGenerator(seed: UInt64(thread))
        var own: [UInt64] = []
        own.reserveCapacity(count / inFlight)
        try VirtualMachineData.forEach(size, total: count / inFlight * size) { bytes, _ in
          let offset = UInt64.random(in: 0..<diskByteCount / UInt64(size), using: &random) * UInt64(size)
          let start = MonotonicClock.nanoseconds()
          try disk.write(bytes, at: offset)
          own.append(MonotonicClock.nanoseconds() - start)
        }
        samples.add(own)
      }
      figures.add(
        "Acknowledgements, ring of 256 MiB", "\(name), \(inFlight) in flight", latencies: samples.all)
      try journal.close()
      try place.delete("acks")
    }
  }
}

/// Guests' data from memory to durable segments, as fast as it goes: a burst that the ring takes, and a stream four times
/// as large.
func measureSpill(_ figures: inout Figures, _ place: Workplace) throws {
  for (name, total) in [("burst of 192 MiB", 192 << 20), ("stream of 1 GiB", 1 << 30)] {
    let journal = try place.journal("spill")
    let disk = try journal.disk("d", byteCount: 1 << 30, mode: .device)
    var acknowledged = 0.0
    let durable = try seconds {
      acknowledged = try seconds {
        try VirtualMachineData.forEach(256 << 10, total: total) { bytes, offset in
          try disk.write(bytes, at: offset)
        }
      }
      try journal.flush()
    }
    let status = try journal.status()
    let title = "Spill"
    figures.add(title, name, "acknowledged MB/s", Double(total) / 1e6 / acknowledged)
    figures.add(title, name, "durable MB/s", Double(total) / 1e6 / durable)
    figures.add(title, name, "stored / raw", Double(status.storedBytes) / Double(status.writtenBytes))
    try journal.close()
    try place.delete("spill")
  }
}

/// Measured times from several threads.
final class Samples: @unchecked Sendable {
  // Sendable: guarded by `lock`.
  private let lock = Lock()
  private var values: [UInt64] = []
  func add(_ more: [UInt64]) { lock.withLock { values += more } }
  func add(_ one: UInt64) { lock.withLock { values.append(one) } }
  var all: [UInt64] { lock.withLock { values } }
}
