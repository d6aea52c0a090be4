import Foundation
import Glibc
import Peers
import QEMUMonitor
import TestKit
import Testing

extension EndToEnd {
  /// Goal: a backup that fails says why in one line, leaves nothing behind, and loses no change of the disk.
  /// Method: it is made to fail in its middle; the next incremental stands on the last sealed one and is compared.
  @Suite("a backup that fails in its middle")
  struct BackupFailureTests {
    let directory: TemporaryDirectory
    let seed = EndToEnd.seed()

    init() throws { directory = try TemporaryDirectory() }

    /// A backup `failed` on g1 that is in its middle, with writes of the guest before, during and in it.
    private func middle(of guest: BackupGuest, _ more: String...) throws -> ChildProcess {
      try guest.keep("g1")
      try guest.write(0x51, at: 0, 4 << 20)
      try guest.remember("failed")
      let held = try HeldStage("sessionMoment", in: directory)
      let backup = try guest.start(
        ["--name", "failed", "--incremental", "g1", "--speed", "64K"] + more, environment: held.environment)
      try held.meet(backup) { try guest.write(0xe1, at: 3 << 20, 65536) }
      try guest.machine.monitor.waitForJobs([guest.job().id], toBe: ["pending"], within: .seconds(60)) {
        $0[0].currentProgress == 0
      }
      try guest.write(0xe2, at: 1 << 20, 4096)
      try guest.write(0xe2, at: 5 << 20, 4096)
      return backup
    }

    /// The next one on g1 has it all.
    private func expectRecovery(_ guest: BackupGuest) throws {
      try guest.expectNothingLeft(bitmapsOf: ["g1"])
      #expect(try guest.states() == ["g1 full sealed", "failed incremental ended"])
      try guest.write(0x52, at: 7 << 20, 4096)
      try guest.keep("g2", on: "g1")
      try guest.expectContent("g1", "g2")
      try guest.expectClean()
      try guest.expectNothingLeft(bitmapsOf: ["g2"])
    }

    @Test("because somebody else cancels its job")
    func cancelled() throws {
      let guest = try BackupGuest(seed: seed, in: directory)
      let backup = try middle(of: guest)
      try guest.machine.monitor.cancelJob(guest.job().id)
      try backup.finish(within: .seconds(60)).expectFailure(1, "the job of root", "cancel")
      try expectRecovery(guest)
    }

    @Test("because its parent is killed, or both of its processes", arguments: [false, true])
    func killed(both: Bool) throws {
      let guest = try BackupGuest(seed: seed, in: directory)
      let backup = try middle(of: guest)
      let engine = try BackupCrashTests.engine(of: backup)
      backup.kill()
      if both { kill(engine, SIGKILL) }
      try guest.waitForEnd()
      guard both else { return try expectRecovery(guest) }
      try guest.machine.startWrite(0xe3, at: 2 << 20, 4096)
      try guest.note(0xe3, at: 2 << 20, 4096)
      try guest.remember("g2")
      try guest.run("--name", "g2", "--incremental", "g1").succeeded()
      #expect(try guest.machine.waitForWrites() == [])
      #expect(try guest.states() == ["g1 full sealed", "failed incremental ended", "g2 incremental sealed"])
      try guest.expectContent("g1", "g2")
      try guest.expectNothingLeft(bitmapsOf: ["g2"])
    }

    @Test("but for its engine goes on when that is killed, and is sealed")
    func engineKilled() throws {
      let guest = try BackupGuest(seed: seed, in: directory)
      let backup = try middle(of: guest)
      kill(try BackupCrashTests.engine(of: backup), SIGKILL)
      try guest.write(0xe3, at: 2 << 20, 4096)
      try guest.hurry()
      let finished = try backup.finish(within: .seconds(60)).succeeded()
      #expect(
        finished.errorLines.last == "spillway: sealed: root@failed (incremental)", "\(finished.errorLines)")
      try guest.keep("g2", on: "failed")
      try guest.expectContent("g1", "failed", "g2")
      try guest.expectClean()
      try guest.expectNothingLeft(bitmapsOf: ["g2"])
    }

    // Then qemu has done with the bitmap whatever it does at the end of a job that went well.
    @Test(
      "or whose jobs somebody else finalizes is sealed, or was stopped and loses nothing",
      arguments: [false, true])
    func finalizedByOthers(isStopped: Bool) throws {
      let guest = try BackupGuest(seed: seed, in: directory)
      try guest.keep("g1")
      try guest.write(0x51, at: 1 << 20, 1 << 20)
      try guest.remember("g2")
      let held = try HeldStage("backupCopied", in: directory)
      let backup = try guest.start(["--name", "g2", "--incremental", "g1"], environment: held.environment)
      try held.meet(backup) {
        let job = try guest.job()
        try guest.machine.monitor.finalizeJob(job.id)
        try guest.machine.monitor.waitForJob(job.id, within: .seconds(60))
        if isStopped { backup.terminate() }
      }
      let finished = try backup.finish(within: .seconds(60))
      if isStopped { finished.expectFailure(1, "stopped by SIGTERM") } else { try finished.succeeded() }
      let base = isStopped ? "g1" : "g2"
      try guest.expectNothingLeft(bitmapsOf: [base])
      try guest.write(0x52, at: 3 << 20, 4096)
      try guest.keep("g3", on: base)
      try guest.expectContent("g1", "g3")
      if !isStopped { try guest.expectContent("g2") }
    }

    @Test("because of ^C", arguments: [SIGINT, SIGTERM])
    func interrupted(by signal: Int32) throws {
      let guest = try BackupGuest(seed: seed, in: directory)
      let backup = try middle(of: guest)
      backup.send(signal)
      try backup.finish(within: .seconds(60)).expectFailure(1, "stopped by SIG", "nothing was sealed")
      try expectRecovery(guest)
    }

    @Test(
      "because qemu dies: then its bitmaps are gone, or not to be trusted, and the next one has to be full",
      arguments: [QEMUMachine.Disk.Format.raw, .qcow2])
    func qemuKilled(format: QEMUMachine.Disk.Format) throws {
      let guest = try BackupGuest(["root"], format, seed: seed, in: directory)
      let backup = try middle(of: guest)
      guest.machine.kill()
      try backup.finish(within: .seconds(60)).expectFailure(1, "qemu")
      try guest.waitForEnd()
      try guest.restart(killing: true)
      try guest.run("--incremental", "g1", "--name", "g2").expectFailure(1, "make a full backup")
      // qemu had not written everything back when it was killed: what the disk holds now is what counts.
      try Program.qemuImg.run(
        [
          "convert", "-U", "-f", format.rawValue, "-O", "raw", directory.file("root.\(format.rawValue)"),
          guest.model(),
        ])
      try guest.keep("g2")
      try guest.write(0x53, at: 6 << 20, 4096)
      try guest.keep("g3", on: "g2")
      try guest.expectContent("g1", "g2", "g3")
      try guest.expectClean()
    }

    @Test(
      "because the journal's disk is full, and the guest does not wait and gets no error",
      .enabled(if: FullDisk.tmpfs.isPossible, "mounting a tmpfs is not allowed here"))
    func fullDisk() throws {
      let filesystem = try PrivateFilesystem(mebibytes: 64, in: directory)
      let guest = try BackupGuest(seed: seed, in: directory, filesystem: filesystem)
      try guest.keep("g1")
      try guest.write(0x51, at: 0, 2 << 20)
      try filesystem.fill(leaving: 1 << 20)
      let held = try HeldStage("sessionMoment", in: directory)
      let backup = try guest.start(
        ["--name", "failed", "--stall-budget", "100"], environment: held.environment)
      try held.meet(backup) {
        for offset in stride(from: 0, to: 8 << 20, by: 1 << 20) as StrideTo<UInt64> {
          try guest.write(0xe1, at: offset + 4096, 4096)
        }
      }
      let finished = try backup.finish(within: .seconds(60))
      #expect(finished.status == .exited(1))
      #expect(
        finished.errorLines.last?.contains("the disk of the journal is full") == true,
        "\(finished.errorLines)")
      try guest.expectNothingLeft(bitmapsOf: ["g1"])
      try filesystem.empty()
      #expect(try guest.states() == ["g1 full sealed", "failed full ended tainted"])
      try guest.keep("g2", on: "g1")
      try guest.expectContent("g1", "g2")
    }
  }
}
