import Foundation
import Glibc
import Peers
import QEMUMonitor
import TestKit
import Testing

extension EndToEnd {
  /// Goal: whoever dies, no write of the guest fails, no read is wrong, and nothing is left.
  /// Method: SIGKILL for each process of a session while the guest writes; and the ends that users bring about.
  @Suite("a death during an inspection")
  struct InspectDeathTests {
    let directory: TemporaryDirectory
    /// An engine may take its time on a machine that has other tests to run.
    let patient = ["--stall-budget", "60000", "--log-level", "info"]

    init() throws { directory = try TemporaryDirectory() }

    @Test("of the engine, twice: the guest's writes go on, and so does the view")
    func engine() throws {
      let inspected = try InspectedMachine(in: directory)
      let session = try inspected.inspect(patient)
      try inspected.write(0x71, at: 0, 1 << 20)
      for round in 1...2 {
        let dead = try session.killEngine()
        // One is new, one was caught before.
        let offset = UInt64(round) << 17
        try inspected.write(0x72, at: offset, 1 << 20)
        try session.waitForLines(round, containing: "the engine is back")
        #expect(inspected.engines().count == 1 && inspected.engines() != [dead])
        try session.expectMoment()
        try inspected.write(0x73, at: offset + 65536)
      }
      try session.expectMoment()
      #expect(try session.finish().status == .exited(0))
      try inspected.expectNothingLeft()
    }

    @Test("of the engine, again and again at once: whoever is started last goes on")
    func engineAtOnce() throws {
      let inspected = try InspectedMachine(in: directory)
      let session = try inspected.inspect(patient)
      try inspected.write(0x71, at: 0)
      var dead = try session.killEngine()
      try inspected.machine.startWrite(0x72, at: 1 << 20, 65536)
      for _ in 0..<2 {
        // As soon as there is one, whatever it was about to do.
        dead = try session.waitForEngine(otherThan: dead)
        kill(dead, SIGKILL)
      }
      #expect(try inspected.machine.waitForWrites() == [])
      try session.waitForLines(containing: "the engine is back")
      try session.expectMoment()
      #expect(try session.finish().status == .exited(0))
      try inspected.expectNothingLeft()
    }

    @Test("of the engine while it closes the journal: all ends all the same")
    func engineInTheEnd() throws {
      let inspected = try InspectedMachine(in: directory)
      let journal = directory.file("journal")
      let session = try inspected.inspect(
        ["-j", journal], environment: ["SPILLWAY_FAILPOINT": "closeCommitted"])
      try inspected.write(0x71, at: 0)
      try session.expectMoment()
      #expect(try session.finish(5).status == .exited(5))
      let generation = try #require(Spillway.status(journal).disks.first?.generations.first)
      #expect(generation.state == "ended" && !generation.tainted)
      // The next to open it recovers it, and its ring goes.
      try inspected.run(["-j", journal], command: ["/bin/true"]).succeeded()
      try inspected.expectNothingLeft()
    }

    @Test("of the engine for good: the guest's writes go on, and the generation is tainted, durably")
    func engineForGood() throws {
      let inspected = try InspectedMachine(in: directory)
      let journal = directory.file("journal")
      let session = try inspected.inspect(["-j", journal])
      try inspected.write(0x71, at: 0)
      // Takes the journal's lock the moment that the engine dies.
      let usurper = try Program.python.start([
        "-c",
        """
        import fcntl, sys, signal
        lock = open(sys.argv[1], "r+")
        print("waits", file=sys.stderr, flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)
        print("has it", file=sys.stderr, flush=True)
        signal.pause()
        """, journal + "/lock",
      ])
      try usurper.waitForErrorLine(containing: "waits", within: .seconds(30))
      try Self.waitUntilAsleep(usurper)
      try inspected.noteRing(of: journal)
      try session.killEngine()
      try inspected.machine.startWrite(0x72, at: 1 << 20, 65536)
      try inspected.machine.startWrite(0x72, at: 0, 65536)
      #expect(try inspected.machine.waitForWrites() == [])
      try usurper.waitForErrorLine(containing: "has it", within: .seconds(30))
      try session.waitForLines(containing: "lost from here on")
      // Its own connection may be new: nobody is told of a reconnection while a write waits.
      try inspected.write(0x73, at: 0, 1 << 20, 2 << 20)
      usurper.kill()
      let end = try session.finish()
      #expect(end.status == .exited(1), "the command does not know that it saw half a disk")
      let status = try Spillway.status(journal)
      #expect(try #require(status.disks.first).generations.map(\.tainted) == [true])
      let refused = try Spillway.run(["replay", "-j", journal, "root", directory.file("output.raw")])
      #expect(refused.status == .exited(1))
      #expect(refused.errorLines.first?.contains("taint") == true, "\(refused.errorLines)")
      // A later session on the same journal is whole.
      try inspected.note(0x73, at: 0)
      try inspected.note(0x73, at: 1 << 20)
      try inspected.note(0x73, at: 2 << 20)
      let next = try inspected.inspect(["-j", journal])
      try inspected.write(0x74, at: 0)
      try next.expectMoment()
      #expect(try next.finish().status == .exited(0))
      #expect(try #require(Spillway.status(journal).disks.first).generations.map(\.tainted) == [true, false])
      try inspected.expectNothingLeft()
    }

    @Test("of the engine for good, with a temporary journal: its spool goes too")
    func engineForGoodTemporary() throws {
      let inspected = try InspectedMachine(byteCount: 1 << 20, in: directory)
      let session = try inspected.inspect()
      try inspected.write(0x71, at: 0)
      let names = try FileManager.default.contentsOfDirectory(atPath: inspected.temporaryJournals)
      let index = "\(inspected.temporaryJournals)/\(try #require(names.first))"
      // An engine cannot begin where its journal is not.
      try inspected.noteRing()
      try FileManager.default.moveItem(atPath: index + "/segments", toPath: index + "/elsewhere")
      try Data().write(to: URL(fileURLWithPath: index + "/segments"))
      try session.killEngine()
      try inspected.write(0x72, at: 0, 131072)
      try session.waitForLines(containing: "lost from here on")
      #expect(try session.finish().status == .exited(1))
      try inspected.expectNothingLeft()
    }

    @Test("of the parent: the guest's writes go on and the engine tears down")
    func parent() throws {
      let inspected = try InspectedMachine(in: directory)
      let session = try inspected.inspect()
      try inspected.write(0x71, at: 0, 1 << 20)
      try inspected.noteRing()
      session.child.send(SIGKILL)
      try inspected.write(0x72, at: 0, 2 << 20, 3 << 20)
      try session.waitForFilesToGo()
      try inspected.write(0x73, at: 65536, 2 << 20)
      #expect(try session.finish().status == .killed(signal: SIGKILL))
      try inspected.expectNothingLeft()
      // And the next one begins at once.
      try inspected.run(command: ["/bin/true"]).succeeded()
    }

    @Test(
      "of the parent, while another program waits for the monitor: the guest's writes go on until that lets go"
    )
    func parentAndMonitorHeld() throws {
      let inspected = try InspectedMachine(in: directory)
      let session = try inspected.inspect()
      try inspected.write(0x71, at: 0)
      // It gets the monitor the moment that the parent is dead.
      let rival = try Program.python.start([
        "-c",
        """
        import socket, sys, signal
        monitor = socket.socket(socket.AF_UNIX)
        monitor.connect(sys.argv[1])
        print("waits", file=sys.stderr, flush=True)
        monitor.recv(1)
        print("has it", file=sys.stderr, flush=True)
        signal.pause()
        """, inspected.machine.monitorSocket,
      ])
      try rival.waitForErrorLine(containing: "waits", within: .seconds(30))
      session.child.send(SIGKILL)
      try rival.waitForErrorLine(containing: "has it", within: .seconds(30))
      try inspected.write(0x72, at: 1 << 20, 2 << 20)
      // The engine has tried, and goes on.
      try session.child.waitForErrorLine(
        containing: "another program holds the monitor", within: .seconds(60))
      try inspected.write(0x72, at: 1 << 19)
      #expect(inspected.engines().count == 1)
      rival.kill()
      try session.waitForFilesToGo()
      try inspected.write(0x73, at: 3 << 20)
      #expect(try session.finish().status == .killed(signal: SIGKILL))
      try inspected.expectNothingLeft()
    }

    @Test("of both: a guest's write that waits is answered by the next session, which cleans up first")
    func both() throws {
      let inspected = try InspectedMachine(in: directory)
      let journal = directory.file("journal")
      let session = try inspected.inspect(["-j", journal])
      try inspected.write(0x71, at: 0)
      try inspected.note(0x71, at: 0)
      try inspected.noteRing(of: journal)
      // Stopped first, so that it cannot start another engine.
      session.child.send(SIGSTOP)
      try session.killEngine()
      session.child.send(SIGKILL)
      try inspected.machine.startWrite(0x72, at: 1 << 20, 65536)
      try inspected.note(0x72, at: 1 << 20)
      #expect(try session.finish().status == .killed(signal: SIGKILL))
      #expect(inspected.machine.unansweredWrites == 1)

      let next = try inspected.inspect(["-j", journal])
      #expect(try inspected.machine.waitForWrites() == [])
      #expect(next.child.errorLines.contains { $0.contains("an earlier session on this virtual machine") })
      try inspected.write(0x73, at: 0, 1 << 20, 2 << 20)
      try next.expectMoment()
      #expect(try next.finish().status == .exited(0))
      let generations = try #require(Spillway.status(journal).disks.first).generations
      #expect(generations.map(\.tainted) == [true, false])
      #expect(generations.map(\.state) == ["ended", "ended"])
      try inspected.expectNothingLeft()
    }

    @Test("of qemu: COMMAND learns it, and all ends")
    func qemu() throws {
      let inspected = try InspectedMachine(in: directory)
      let journal = directory.file("journal")
      let session = try inspected.inspect(["-j", journal])
      try inspected.write(0x71, at: 0)
      inspected.machine.kill()
      try session.waitForLines(containing: "the view is broken")
      // What has arrived is to be had.
      #expect(try session.read(65536, at: 0) == "right")
      #expect(try session.read(65536, at: 1 << 20) == "EIO")
      let end = try session.finish()
      #expect(end.status == .exited(1))
      let status = try Spillway.status(journal)
      #expect(status.wasClosed)
      #expect(try #require(status.disks.first).generations.map(\.state) == ["ended"])
      try inspected.expectNothingOnHost()
    }

    /// Waits until the system says that `child` sleeps: it is in the call that it told of.
    private static func waitUntilAsleep(_ child: ChildProcess) throws {
      let deadline = ContinuousClock.now + .seconds(30)
      while true {
        let about = FileManager.default.contents(atPath: "/proc/\(child.processID)/stat") ?? Data()
        if String(decoding: about, as: UTF8.self).contains(") S ") { return }
        guard ContinuousClock.now < deadline, !child.hasEnded(within: .milliseconds(5)) else {
          throw PeerError("\(child.command) never slept")
        }
      }
    }
  }
}
