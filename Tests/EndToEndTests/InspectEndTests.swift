import Foundation
import Glibc
import Peers
import QEMUMonitor
import TestKit
import Testing

extension EndToEnd {
  /// Goal: an inspection that is ended from outside ends in order, and its readers get the moment or an error.
  /// Method: the job cancelled by another client of qemu's, signals to the parent and to COMMAND, a frozen guest, a full disk.
  @Suite("the end of an inspection")
  struct InspectEndTests {
    let directory: TemporaryDirectory

    init() throws { directory = try TemporaryDirectory() }

    @Test("by somebody who cancels the job: reads of what has not arrived fail, and none is wrong")
    func cancelled() throws {
      let inspected = try InspectedMachine(in: directory)
      let session = try inspected.inspect()
      try inspected.write(0x81, at: 0)
      let over = directory.file("over")
      let reader = try LibNBD.start(
        """
        random.seed(3); size = h.get_size(); original = os.open(uris[1], os.O_RDONLY)
        reads = wrong = failed = 0
        while not os.path.exists(uris[2]):
            if reads == 100: tell("reading")
            offset = random.randrange(size // 4096) * 4096
            reads += 1
            try: wrong += h.pread(4096, offset) != os.pread(original, 4096, offset)
            except nbd.Error as error:
                assert error.errno == "EIO", error
                if failed == 0: tell("failing")
                failed += 1
        print(wrong, failed)
        """, session.views[0], inspected.originals[0], over)
      try reader.waitForErrorLine(containing: "reading", within: .seconds(60))
      let qemu = inspected.machine.monitor
      try qemu.cancelJob(try #require(qemu.jobs().first).id)
      for cluster in 0..<64 as Range<UInt64> {
        try inspected.machine.startWrite(0x82, at: cluster * 65536, 65536)
      }
      #expect(try inspected.machine.waitForWrites() == [])
      try reader.waitForErrorLine(containing: "failing", within: .seconds(60))
      try Data().write(to: URL(fileURLWithPath: over))
      let figures = try reader.finish(within: .seconds(60)).succeeded().outputText.split(separator: " ")
      #expect(figures.first == "0", "wrong reads")
      #expect(try session.read(65536, at: 0) == "right", "what had arrived is there")
      #expect(try session.read(65536, at: 1 << 20) == "EIO")
      try session.waitForLines(containing: "the view is broken: the job of root")
      #expect(try session.finish().status == .exited(1))
      try inspected.expectNothingLeft()
    }

    @Test("by ^C ends COMMAND, by a second one at once; and COMMAND's own death is its status")
    func signals() throws {
      let inspected = try InspectedMachine(byteCount: 1 << 20, in: directory)
      let asked = try inspected.inspect()
      try inspected.write(0x83, at: 0)
      asked.child.send(SIGINT)
      #expect(try asked.waitForEnd().status == .exited(128 + SIGTERM))
      try inspected.expectNothingLeft()

      let stubborn = try inspected.inspect(script: "trap 'echo told >&2' TERM")
      stubborn.child.send(SIGTERM)
      try stubborn.waitForLines(containing: "told")
      stubborn.child.send(SIGTERM)
      #expect(try stubborn.waitForEnd().status == .exited(128 + SIGKILL))

      let killed = try inspected.inspect()
      kill(killed.commandID, SIGKILL)
      #expect(try killed.waitForEnd().status == .exited(128 + SIGKILL))
      try inspected.expectNothingLeft()
    }

    @Test("of a guest that was frozen: before the moment, and thawed right after")
    func freeze() throws {
      let inspected = try InspectedMachine(byteCount: 1 << 20, in: directory)
      let agent = try HeldAgent(in: directory)
      let qemu = inspected.machine.monitor
      let child = try Spillway.start(
        inspected.arguments(["--freeze", "--agent", agent.path], command: ["/bin/sh", "-c", "exit 6"]),
        environment: inspected.environment)
      try agent.meet("guest-fsfreeze-freeze") {
        let jobs = try qemu.jobs()
        #expect(jobs == [])
      }
      try agent.meet("guest-fsfreeze-thaw") {
        let jobs = try qemu.jobs()
        #expect(jobs.map(\.status) == ["running"])
      }
      #expect(try child.finish(within: .seconds(60)).status == .exited(6))
      #expect(agent.heard == ["guest-fsfreeze-freeze", "guest-fsfreeze-thaw"])
      try inspected.expectNothingLeft()
    }

    @Test("of a guest that was frozen for nothing: it is thawed when the moment fails, too")
    func freezeForNothing() throws {
      let inspected = try InspectedMachine(in: directory)
      let agent = try HeldAgent(in: directory)
      let qemu = inspected.machine.monitor
      let child = try Spillway.start(
        inspected.arguments(["--freeze", "--agent", agent.path], command: ["/bin/true"]),
        environment: inspected.environment)
      // What the job would write to is taken away at the last instant.
      try agent.meet("guest-fsfreeze-freeze") {
        let nodes = try qemu.execute("query-named-block-nodes", arguments: ["flat": true]).array ?? []
        let target = nodes.compactMap { $0["node-name"]?.string }.first { $0.hasPrefix("spillway-") }
        try qemu.execute("blockdev-del", arguments: ["node-name": .string(#require(target))])
      }
      try agent.meet("guest-fsfreeze-thaw") {
        let jobs = try qemu.jobs()
        #expect(jobs == [])
      }
      let end = try child.finish(within: .seconds(60))
      #expect(end.status == .exited(1), "\(end.errorLines)")
      #expect(end.errorLines.contains { $0.contains("transaction was refused") }, "\(end.errorLines)")
      try inspected.write(0x84, at: 0)
      try inspected.expectNothingLeft()
    }

    @Test("of a guest that cannot be frozen: nothing is begun, and it is thawed in case it could")
    func freezeRefused() throws {
      let inspected = try InspectedMachine(byteCount: 1 << 20, in: directory)
      let agent = try HeldAgent(refusing: "guest-fsfreeze-freeze", in: directory)
      let mark = directory.file("ran")
      let child = try Spillway.start(
        inspected.arguments(["--freeze", "--agent", agent.path], command: ["/bin/touch", mark]),
        environment: inspected.environment)
      try agent.meet("guest-fsfreeze-freeze") {}
      try agent.meet("guest-fsfreeze-thaw") {
        let jobs = try inspected.machine.monitor.jobs()
        #expect(jobs == [])
      }
      let end = try child.finish(within: .seconds(60))
      #expect(end.status == .exited(1))
      #expect(
        end.errorLines.contains { $0.contains("could not be frozen") && $0.contains("not now") },
        "\(end.errorLines)")
      #expect(access(mark, F_OK) != 0)
      try inspected.expectNothingLeft()

      let without = try inspected.run(["--freeze"], command: ["/bin/touch", mark])
      #expect(without.status == .exited(1))
      #expect(without.errorLines.contains { $0.contains("--agent PATH") }, "\(without.errorLines)")
      #expect(access(mark, F_OK) != 0)
      try inspected.expectNothingLeft()
    }

    @Test(
      "of a guest that was frozen by a session that is killed then: whoever tears down thaws it",
      arguments: [false, true])
    func killedWhileFrozen(withEngine: Bool) throws {
      let inspected = try InspectedMachine(byteCount: 1 << 20, in: directory)
      let agent = try HeldAgent(in: directory)
      let mark = directory.file("ran")
      let child = try Spillway.start(
        inspected.arguments(["--freeze", "--agent", agent.path], command: ["/bin/touch", mark]),
        environment: inspected.environment)
      try agent.meet("guest-fsfreeze-freeze") {
        try inspected.noteRing()
        if withEngine {
          child.send(SIGSTOP)
          kill(try #require(inspected.engines().first), SIGKILL)
        }
        child.kill()
      }
      if withEngine {
        _ = try child.finish(within: .seconds(60))
        let next = try Spillway.start(
          inspected.arguments(command: ["/bin/true"]), environment: inspected.environment)
        try agent.meet("guest-fsfreeze-thaw") {}
        try next.finish(within: .seconds(60)).succeeded()
      } else {
        try agent.meet("guest-fsfreeze-thaw") {}
      }
      // Its end is the engine's, if there is one.
      #expect(try child.finish(within: .seconds(60)).status == .killed(signal: SIGKILL))
      #expect(access(mark, F_OK) != 0)
      try inspected.write(0x85, at: 0)
      try inspected.expectNothingLeft()
    }

    @Test(
      "of a journal's disk that is full: the guest's writes go on, and who looks is told",
      .enabled(if: FullDisk.tmpfs.isPossible, "mounting a tmpfs is not allowed here"))
    func fullDisk() throws {
      let inspected = try InspectedMachine(byteCount: 64 << 20, in: directory)
      let (session, mount) = try startOnSmallDisk(inspected, stallBudget: "10")
      try inspected.write(0x01, 1 << 20, at: 0)
      #expect(try session.read(4096, at: 0) == "right")
      for mebibyte in 1..<48 as Range<UInt64> {
        try inspected.machine.startWrite(0x91, at: mebibyte << 20, 1 << 20)
      }
      #expect(try inspected.machine.waitForWrites() == [])
      #expect(try session.read(4096, at: 0) == "EIO")
      #expect(try session.read(4096, at: 50 << 20) == "EIO")
      let journal = "/proc/\(session.child.processID)/root\(mount)/journal"
      #expect(try #require(Spillway.status(journal).disks.first).generations.map(\.tainted) == [true])
      let end = try session.finish()
      #expect(end.status == .exited(1), "a command that does not notice is not believed")
      #expect(end.errorLines.contains { $0.contains("TAINTED") }, "\(end.errorLines)")
      try inspected.expectNothingLeft()
    }

    @Test(
      "of a journal's disk that is full, with a long --stall-budget: the guest waits for room, and nothing is lost",
      .enabled(if: FullDisk.tmpfs.isPossible, "mounting a tmpfs is not allowed here"))
    func longBudget() throws {
      let inspected = try InspectedMachine(byteCount: 64 << 20, in: directory)
      let (session, mount) = try startOnSmallDisk(inspected, stallBudget: "86400000")
      for mebibyte in 0..<48 as Range<UInt64> {
        try inspected.machine.startWrite(0x92, at: mebibyte << 20, 1 << 20)
      }
      try session.waitForLines(containing: "disk full")
      #expect(inspected.machine.unansweredWrites > 0)
      #expect(unlink("/proc/\(session.child.processID)/root\(mount)/ballast") == 0)
      #expect(try inspected.machine.waitForWrites() == [])
      try session.expectMoment()
      #expect(try session.finish().status == .exited(0))
      try inspected.expectNothingLeft()
    }

    /// A session whose journal lies on a filesystem of 128 MiB with 24 to fill.
    private func startOnSmallDisk(
      _ inspected: InspectedMachine, stallBudget: String
    ) throws -> (RunningInspection, mount: String) {
      let mount = directory.file("small")
      try FileManager.default.createDirectory(atPath: mount, withIntermediateDirectories: false)
      let session = try inspected.inspect(
        ["-j", "\(mount)/journal", "--stall-budget", stallBudget],
        launcher: FullDisk.tmpfs.launcher(mount, mebibytes: 128, left: 24))
      return (session, mount)
    }
  }
}
