import ExtentJournal
import Foundation
import TestKit
import Testing

// Goal: no short history exists after which a power loss leaves anything but a prefix.
// Method: nothing is sampled. Every script of up to three operations runs, with a segment for each batch and with one
// for all; the power goes at every operation of the disk and after the last; and for each of these moments every subset
// of the changes that were not durable (whole writes, names, removals, cuts of a length) survives. A crash inside an
// earlier operation of a script is a crash inside the last one of a shorter script, so only the last one is cut. What
// tears within a write is left to the random histories, and what LMDB writes to tests of its own.
//
// Seal and punch join the vocabulary when they exist.

@Suite struct ExhaustiveCrashTests {
  /// Writes that overlap, on the same disk; one on the other disk, since they share the prefix.
  private static let vocabulary: [Step] = [
    .write(start: 0, count: 8), .write(start: 4, count: 8),
    .write(start: Machine.volumeSectorCount + 2, count: 4), .zero(start: 2, count: 4),
    .trim(start: 0, count: 6),
    .flush, .spill, .checkpoint,
  ]
  /// Unsynced changes of which every subset is tried; when there are more, the earlier ones are there or are not, together.
  private static let subsetMax = 6

  private static let lengthMax =
    ProcessInfo.processInfo.environment["SPILLWAY_TEST_SCRIPT_LENGTH"].flatMap { Int($0) } ?? 3

  @Test(
    "every crash of every short script leaves a prefix of both disks, whatever subset of the unsynced changes survives",
    arguments: vocabulary.indices)
  func scripts(first: Int) throws {
    var scripts: [[Step]] = [[Self.vocabulary[first]]]
    var counts = (scripts: 0, crashes: 0, recoveries: 0)
    for length in 1...Self.lengthMax {
      for script in scripts {
        // A segment size for each batch, and one for all.
        for seed in [0, 2] as [UInt64] {
          try run(script, seed, &counts)
          counts.scripts += 1
        }
      }
      if length < Self.lengthMax {
        scripts = scripts.flatMap { script in Self.vocabulary.map { script + [$0] } }
      }
    }
    print(
      "scripts that begin with \(Self.vocabulary[first]): \(counts.scripts), crashes: \(counts.crashes), recoveries: \(counts.recoveries)"
    )
    #expect(counts.recoveries >= counts.scripts)
  }

  private func run(
    _ script: [Step], _ seed: UInt64, _ counts: inout (scripts: Int, crashes: Int, recoveries: Int)
  ) throws {
    var cut = 0
    while true {
      let machine = try Machine(seed: seed, spoolByteCount: 192 << 10)
      for step in script.dropLast() { try machine.perform(step) }
      machine.disk.plant(.powerCut, after: cut)
      do {
        try machine.perform(script[script.count - 1])
      } catch {
        guard machine.disk.isPowerCut else { throw error }
      }
      let wasCut = machine.disk.isPowerCut
      machine.disk.cutPower()
      machine.die()
      counts.crashes += 1
      let note =
        "\(script), segments of \(machine.host.segmentBytesMax), cut at \(wasCut ? "\(cut)" : "the end")"
      for survivors in subsets(of: machine.disk.snapshot.changeCount) {
        let disk = SimulatedDisk(machine.disk.snapshot) { survivors[$0] }
        try Machine(after: machine, with: disk).settle("\(note), survivors \(survivors)")
        counts.recoveries += 1
      }
      guard wasCut else { return }
      cut += 1
    }
  }

  private func subsets(of count: Int) -> [[Bool]] {
    let free = min(count, Self.subsetMax)
    let tails = (0..<1 << free).map { mask in (0..<free).map { mask >> $0 & 1 == 1 } }
    guard count > free else { return tails }
    return [true, false].flatMap { earlier in
      tails.map { [Bool](repeating: earlier, count: count - free) + $0 }
    }
  }
}
