import Foundation
import Peers
import QEMUMonitor
import TestKit
import Testing

extension EndToEnd {
  /// Goal: each generation of a running guest's disks is what they held at its moment, however it was copied and whatever
  /// the guest did meanwhile.
  /// Method: a real qemu whose writes the test makes and knows; every generation is replayed and compared byte for byte.
  @Suite("backups of a machine")
  struct BackupTests {
    let directory: TemporaryDirectory
    let seed = EndToEnd.seed()

    init() throws { directory = try TemporaryDirectory() }

    @Test(
      "of two raw disks: a full one and three incremental ones on one another, and nothing is left but the last bitmap"
    )
    func chain() throws {
      var random = SeededGenerator(seed: seed)
      let guest = try BackupGuest(["root", "data"], seed: seed, in: directory)
      try guest.scribble(&random)
      try guest.keep("g1")
      try guest.expectNothingLeft(bitmapsOf: ["g1"])
      for number in 2...4 {
        // The last but one has nothing to copy.
        if number != 3 { try guest.scribble(&random) }
        try guest.keep("g\(number)", on: "g\(number - 1)")
        try guest.expectNothingLeft(bitmapsOf: ["g\(number)"])
      }
      try guest.expectContent("g1", "g2", "g3", "g4")
      try guest.expectClean()
      // All clusters once, and then for each write those that it touches: what was not written is not copied.
      let status = try Spillway.status(guest.journal)
      let writes: UInt64 = 2 * 2 * 4
      let copiedMax: UInt64 = 2 * guest.byteCount + writes * 4 * 65536
      let copied = status.writtenBytes + status.zeroedBytes
      #expect(copied <= copiedMax)
      for disk in 0...1 {
        #expect(
          try guest.states(disk) == [
            "g1 full sealed", "g2 incremental sealed", "g3 incremental sealed", "g4 incremental sealed",
          ])
      }
    }

    @Test("of a qcow2 disk go on when qemu was ended and started again, for the bitmap is kept in the image")
    func qcow2() throws {
      var random = SeededGenerator(seed: seed)
      let guest = try BackupGuest(["root"], .qcow2, seed: seed, in: directory)
      try guest.keep("g1")
      try guest.scribble(&random)
      try guest.restart()
      try guest.scribble(&random)
      try guest.keep("g2", on: "g1")
      try guest.restart()
      try guest.scribble(&random)
      try guest.keep("g3", on: "g2")
      try guest.expectNothingLeft(bitmapsOf: ["g3"])
      try guest.expectContent("g1", "g2", "g3")
      try guest.expectClean()
    }

    @Test("are called by their time unless told, and say nothing but what was sealed")
    func defaultName() throws {
      let guest = try BackupGuest(seed: seed, in: directory)
      let finished = try guest.run().succeeded()
      let line = try #require(finished.errorLines.first)
      #expect(finished.errorLines.count == 1 && finished.output.isEmpty)
      let name = try #require(line.wholeMatch(of: /spillway: sealed: root@([0-9]{8}T[0-9]{6}Z) \(full\)/))
        .output.1
      try guest.remember(String(name))
      try guest.expectContent(String(name))
      try guest.expectNothingLeft(bitmapsOf: [String(name)])
    }

    // Clusters of 64 KiB: of these the guest writes before the middle one has been copied, and after.
    @Test(
      "take nothing that the guest writes during the job, and are read right while they run",
      arguments: [false, true])
    func writesDuringTheJob(isIncremental: Bool) throws {
      let guest = try BackupGuest(seed: seed, in: directory)
      try guest.keep("g1")
      // Inside the bitmap: the first and the last two MiB.
      for offset in [0, 6 << 20] as [UInt64] { try guest.write(0x51, at: offset, 2 << 20) }
      try guest.remember("g2")
      let held = try HeldStage("sessionMoment", in: directory)
      let arguments = isIncremental ? ["--incremental", "g1"] : []
      let backup = try guest.start(
        ["--name", "g2", "--speed", "256K"] + arguments, environment: held.environment)
      try held.meet(backup) {
        // Inside, last and first; outside; at the edges of both.
        for offset in [(8 << 20) - 65536, 0, 4 << 20, (2 << 20) - 4096, (6 << 20) - 4096] as [UInt64] {
          try guest.write(0xe1, at: offset, 8192)
        }
      }
      try guest.machine.monitor.waitForJobs([try guest.job().id], toBe: ["running"], within: .seconds(60)) {
        $0[0].currentProgress < 1 << 20
      }
      try guest.write(0xe2, at: 65536, 8192)
      try guest.write(0xe2, at: (5 << 20) + 512, 8192)
      let copy = directory.file("view.raw")
      try Program.nbdcopy.run(["--connections=1", "--requests=1", guest.view("g2"), copy])
      try EndToEnd.expectIdentical(guest.moment("g2"), copy)
      let job = try guest.job()
      #expect(
        job.status == "running" && job.currentProgress < job.totalProgress,
        "it was not read in its middle: \(job)")
      try guest.write(0xe3, at: (7 << 20) + 512, 512)
      try guest.write(0xe3, at: (5 << 20) - 512, 512)
      try EndToEnd.expectReads(guest.moment("g2"), guest.view("g2"))
      try guest.hurry()
      try backup.finish(within: .seconds(120)).succeeded()
      try guest.expectContent("g1", "g2")
      try guest.expectNothingLeft(bitmapsOf: isIncremental ? ["g2"] : ["g1", "g2"])
      // And what was written during the job is in the next one.
      try guest.keep("g3", on: "g2")
      try guest.expectContent("g3")
      try guest.expectClean()
    }
  }

  /// Expects that the export at `uri` reads as the file `original`, in reads of a MiB from its end to its start.
  static func expectReads(_ original: String, _ uri: String) throws {
    try LibNBD.run(
      """
      content = open(uris[1], "rb").read()
      for offset in reversed(range(0, len(content), 1 << 20)):
          assert h.pread(1 << 20, offset) == content[offset : offset + (1 << 20)], offset
      """, uri, original)
  }
}
