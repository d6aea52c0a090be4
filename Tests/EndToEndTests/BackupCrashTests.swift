import Foundation
import Glibc
import Peers
import QEMUMonitor
import TestKit
import Testing

extension EndToEnd {
  /// Goal: no crash between a backup's moment and its end loses a change of the disk.
  /// Method: a backup is held at a step of its way and its parent, its engine or both are killed there. What is sealed
  /// afterwards must be right, and the next incremental on the last sealed one must be, byte for byte.
  @Suite("a backup that is killed")
  struct BackupCrashTests {
    let directory: TemporaryDirectory
    let seed = EndToEnd.seed()

    init() throws { directory = try TemporaryDirectory() }

    private struct Step {
      var stage: String
      /// Whether the generations are sealed after whoever else than the engine alone dies there.
      var isSealed: Bool
      var victims = Victim.allCases
    }

    private static let steps = [
      Step(stage: "sessionBegun", isSealed: false), Step(stage: "sessionMoment", isSealed: false),
      Step(stage: "backupCopied", isSealed: false),
      // The first of two disks is; an engine that lives on would finish the second.
      Step(stage: "generationPreSealed", isSealed: false, victims: [.both]),
      Step(stage: "backupPreSealed", isSealed: true), Step(stage: "backupFinalized", isSealed: true),
      Step(stage: "generationSealed", isSealed: true, victims: [.parent, .both]),
      Step(stage: "backupSealed", isSealed: true),
    ]

    private enum Victim: String, CaseIterable {
      case engine, parent, both
    }

    @Test("at any step leaves a base on which the next one is right, whoever dies")
    func everyStep() throws {
      var random = SeededGenerator(seed: seed)
      let guest = try BackupGuest(["root", "data"], seed: seed, in: directory)
      try guest.keep("g0")
      var base = "g0"
      var sealed = ["g0"]
      for (number, step) in Self.steps.enumerated() {
        for victim in step.victims {
          let name = "\(number)-\(step.stage)-\(victim)"
          let stage = try self.stage(name, step.stage)
          try guest.scribble(&random)
          try guest.remember(name)
          let backup = try guest.start(
            ["--name", name, "--incremental", base], environment: stage.environment)
          try stage.meet(backup) {
            // What is written now is no part of it, unless the moment is still to come, and of the next one.
            try guest.scribble(&random, count: 1)
            if step.stage == "sessionBegun" { try guest.remember(name) }
            let engine = try Self.engine(of: backup)
            if victim != .engine { backup.kill() }
            if victim != .parent { kill(engine, SIGKILL) }
          }
          let status = try backup.finish(within: .seconds(60)).status
          #expect(status == (victim == .engine ? .exited(0) : .killed(signal: SIGKILL)), "\(name)")
          try guest.waitForEnd()
          if victim == .both { try writeToOrphan(guest, &random) }

          let isSealed = step.isSealed || victim == .engine
          if isSealed { (base, sealed) = (name, sealed + [name]) }
          // Nobody has settled yet what both have left.
          if victim != .both { try guest.expectNothingLeft(bitmapsOf: [base]) }
          // It went on, and is the base of what follows.
          if victim == .engine {
            try guest.expectContent(name)
            continue
          }
          let next = "\(name)-next"
          try keepNext(guest, next, on: base)
          (base, sealed) = (next, sealed + [next])
          try guest.expectNothingLeft(bitmapsOf: [base])
          let state = try #require(guest.states().first { $0.hasPrefix("\(name) ") })
          #expect(state == "\(name) incremental \(isSealed ? "sealed" : "ended")")
          if isSealed { try guest.expectContent(name) }
          try guest.expectContent(next)
        }
      }
      try guest.expectClean()
      for disk in 0...1 {
        #expect(try guest.states(disk).filter { $0.hasSuffix(" sealed") }.count == sealed.count)
      }
    }

    private func stage(_ name: String, _ stage: String) throws -> HeldStage {
      let own = directory.file(name)
      try FileManager.default.createDirectory(atPath: own, withIntermediateDirectories: true)
      return try HeldStage(stage, at: "\(own)/hold.fifo")
    }

    /// The guest writes while nobody is there: such a write may wait, and must not fail when the next session comes.
    private func writeToOrphan(_ guest: BackupGuest, _ random: inout SeededGenerator) throws {
      let sector = UInt64.random(in: 0..<guest.byteCount / 512, using: &random)
      try guest.machine.startWrite(0xdd, at: sector * 512, 512)
      try guest.note(0xdd, at: sector * 512, 512)
    }

    /// As `keep`, though it may have to say that something was cleaned up.
    private func keepNext(_ guest: BackupGuest, _ name: String, on base: String) throws {
      try guest.remember(name)
      let finished = try guest.run("--name", name, "--incremental", base)
      try finished.succeeded()
      #expect(try guest.machine.waitForWrites() == [])
    }

    // As after a power loss of the host: qemu is gone, and so is what lay in /run.
    @Test(
      "and whose record is lost, too, is settled by whoever opens the journal next", arguments: [false, true])
    func recordIsLost(isServed: Bool) throws {
      let guest = try BackupGuest(["root", "data"], seed: seed, in: directory)
      for (number, stage) in ["sessionMoment", "backupPreSealed"].enumerated() {
        let held = try self.stage(stage, stage)
        try guest.remember(stage)
        let backup = try guest.start(["--name", stage], environment: held.environment)
        try held.meet(backup) {
          let engine = try Self.engine(of: backup)
          backup.kill()
          kill(engine, SIGKILL)
        }
        try guest.waitForEnd()
        try guest.restart(killing: true)
        try guest.forgetSessions()
        if isServed {
          try SpillwayDaemon(journal: guest.journal, disks: ["root=8M,mode=snapshot"], in: directory)
            .shutDown()
        } else {
          try guest.keep("next\(number)")
          try guest.expectContent("next\(number)")
        }
        let state = stage == "backupPreSealed" ? "sealed" : "ended"
        for disk in 0...1 { #expect(try guest.states(disk).contains("\(stage) full \(state)")) }
      }
      try guest.expectContent("backupPreSealed")
      try guest.expectClean()
    }

    /// The process id of the engine of a backup that runs.
    static func engine(of backup: ChildProcess) throws -> Int32 {
      let tasks = "/proc/\(backup.processID)/task"
      for task in try FileManager.default.contentsOfDirectory(atPath: tasks) {
        let text = try String(contentsOfFile: "\(tasks)/\(task)/children", encoding: .utf8)
        if let child = text.split(separator: " ").first.flatMap({ Int32($0) }) { return child }
      }
      throw PeerError("\(backup.command) has no engine")
    }
  }
}
