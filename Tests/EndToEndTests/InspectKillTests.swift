import Foundation
import Glibc
import Peers
import QEMUMonitor
import TestKit
import Testing

extension EndToEnd {
  /// Goal: there is no instant of a session at which a kill hurts the guest or leaves something.
  /// Method: sessions one after the other on one machine whose guest writes all the time; each is hit at a random instant,
  /// from its first to its last. `SPILLWAY_TEST_KILLS` says how many.
  @Suite("a kill at any instant of an inspection")
  struct InspectKillTests {
    let directory: TemporaryDirectory

    init() throws { directory = try TemporaryDirectory() }

    private enum Victim: CaseIterable { case engine, parent, both, bothAtOnce }

    @Test("fails no write of the guest, shows no wrong byte, and is cleaned up after")
    func storm() throws {
      let kills = ProcessInfo.processInfo.environment["SPILLWAY_TEST_KILLS"].flatMap { Int($0) } ?? 8
      let seed = seeds(1)[0]
      print("inspect kills: seed \(seed)")
      var random = SeededGenerator(seed: seed)
      let inspected = try InspectedMachine(byteCount: 2 << 20, seed: seed, in: directory)
      let script = """
        import nbd, os, sys
        h = nbd.NBD(); h.connect_uri(os.environ["view_uri"])
        seen = {}
        try:
            for look in range(6):
                for cluster in range(32):
                    found = h.pread(65536, cluster * 65536)
                    if seen.setdefault(cluster, found) != found: sys.exit(9)
        except nbd.Error: sys.exit(3)
        """
      for round in 1...kills {
        // Its command expects that what it has seen stays so, until reads fail.
        let child = try Spillway.start(
          inspected.arguments(command: [Program.python.path(), "-c", script]),
          environment: inspected.environment)
        let victim = try #require(Victim.allCases.randomElement(using: &random))
        let instant = Int.random(in: 1...400, using: &random)
        var writes = 0
        while !child.hasEnded(within: .milliseconds(instant < 200 ? 1 : 4)), writes < instant / 4 {
          let offset = UInt64.random(in: 0..<32, using: &random) << 16
          try inspected.machine.startWrite(UInt8(round), at: offset, 65536)
          writes += 1
          #expect(try inspected.machine.waitForWrites() == [], "round \(round), seed \(seed)")
        }
        try inspected.noteRing()
        hit(victim, child, inspected)
        for cluster in 0..<32 as Range<UInt64> {
          try inspected.machine.startWrite(UInt8(round), at: cluster << 16, 65536)
        }
        // Whoever is killed with the engine leaves the guest's writes waiting, for the next session.
        if victim == .engine || victim == .parent {
          #expect(try inspected.machine.waitForWrites() == [], "round \(round), seed \(seed)")
        }
        let end = try child.finish(within: .seconds(60))
        #expect(end.status != .exited(9), "the view changed: \(victim), round \(round), seed \(seed)")
        try inspected.run(["--stall-budget", "60000"], command: ["/bin/true"]).succeeded()
        #expect(try inspected.machine.waitForWrites() == [], "\(victim), round \(round), seed \(seed)")
        try inspected.expectNothingLeft()
      }
    }

    private func hit(_ victim: Victim, _ child: ChildProcess, _ inspected: InspectedMachine) {
      switch victim {
      case .engine: for engine in inspected.engines() { kill(engine, SIGKILL) }
      case .parent: child.send(SIGKILL)
      case .both:
        child.send(SIGSTOP)
        for engine in inspected.engines() { kill(engine, SIGKILL) }
        child.send(SIGKILL)
      case .bothAtOnce:
        child.send(SIGKILL)
        for engine in inspected.engines() { kill(engine, SIGKILL) }
      }
    }
  }
}
