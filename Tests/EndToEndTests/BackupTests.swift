import Foundation
import Glibc
import Peers
import QEMUMonitor
import TestKit
import Testing

extension EndToEnd {
  /// `spillway backup` of a machine whose guest writes when the test says so.
  @Suite("backup")
  struct BackupTests {
    let directory: TemporaryDirectory
    private let image: String
    private let journal: String
    private let machine: QEMUMachine

    init() throws {
      directory = try TemporaryDirectory()
      image = directory.file("live.raw")
      journal = directory.file("journal")
      try PatternedImage(at: image, byteCount: 32 << 20, seed: 0xbac)
      machine = try QEMUMachine([.init(image)], in: directory)
    }

    private func backup(_ generation: String, on base: String? = nil) throws -> FinishedProcess {
      try Spillway.run(
        [
          "backup", "--qmp", machine.monitorSocket, "--disk", "root=src0", "-j", journal, "--name",
          generation,
        ] + (base.map { ["--incremental", $0] } ?? []))
    }

    /// What the disk holds now, to compare with later.
    private func keep(_ generation: String) throws {
      try FileManager.default.copyItem(atPath: image, toPath: directory.file("\(generation).kept"))
    }

    private func expectReplay(_ generation: String) throws {
      let output = directory.file("\(generation).raw")
      try Spillway.replay(journal, "root@\(generation)", to: output)
      try EndToEnd.expectIdentical(directory.file("\(generation).kept"), output)
      try FileManager.default.removeItem(atPath: output)
    }

    private func guestWrites(_ pattern: UInt8, _ clusters: Range<UInt64>) throws {
      for cluster in clusters { try machine.startWrite(pattern, at: cluster << 16 + 4096, 8192) }
      try machine.startZeroing(at: clusters.upperBound << 16, 64 << 10)
      #expect(try machine.waitForWrites() == [], "errors that the guest got")
    }

    private var bitmaps: Set<String> {
      get throws {
        let nodes = try machine.monitor.execute("query-named-block-nodes").array ?? []
        let source = nodes.first { $0["node-name"] == "src0" }
        return Set((source?["dirty-bitmaps"]?.array ?? []).compactMap { $0["name"]?.string })
      }
    }

    @Test("full, and twice incremental, each generation is the disk of its moment, and each seal holds")
    func chain() throws {
      try keep("g0")
      try backup("g0").succeeded()
      #expect(try bitmaps == ["spillway-g0"])
      try guestWrites(0x61, 10..<30)
      try keep("g1")
      try backup("g1", on: "g0").succeeded()
      #expect(try bitmaps == ["spillway-g1"])
      try guestWrites(0x62, 20..<40)
      try keep("g2")
      try backup("g2", on: "g1").succeeded()
      try guestWrites(0x63, 0..<60)

      for generation in ["g0", "g1", "g2"] { try expectReplay(generation) }
      try Spillway.run(["verify", "-j", journal]).succeeded()
      let daemon = try SpillwayDaemon(journal: journal, disks: [], in: directory)
      for generation in ["g0", "g1", "g2"] {
        let copy = directory.file("\(generation).copy")
        try Program.nbdcopy.run([daemon.viewURI("root@\(generation)"), copy])
        try EndToEnd.expectIdentical(directory.file("\(generation).kept"), copy)
      }
      try daemon.shutDown()
      #expect(try machine.monitor.execute("query-jobs") == [])
      #expect(try machine.monitor.execute("query-block-exports") == [])
      let status = try Spillway.status(journal)
      // All 512 clusters once, and twice 21 of them: what was not written is not copied.
      #expect(status.writtenBytes + status.zeroedBytes <= (512 + 2 * 21) << 16)
    }

    // Which instant it meets is a matter of luck, and any must do: what was whole is whole, and no change is forgotten.
    @Test(
      "killed at some instant, it costs no change", arguments: [0, 40, 120, 250])
    func killed(milliseconds: Int) throws {
      try keep("g0")
      try backup("g0").succeeded()
      try guestWrites(0x61, 10..<30)
      let doomed = try Spillway.start([
        "backup", "--qmp", machine.monitorSocket, "--disk", "root=src0", "-j", journal, "--name", "g1",
        "--incremental", "g0",
      ])
      doomed.hasEnded(within: .milliseconds(milliseconds))
      doomed.kill()
      try guestWrites(0x62, 20..<40)
      // The engine may still be cleaning up behind it, and the next one says so.
      let deadline = ContinuousClock.now + .seconds(60)
      try keep("g2")
      let base = try base(of: "g2", until: deadline)
      try expectReplay("g0")
      try expectReplay("g2")
      #expect(["g0", "g1"].contains(base))
      try Spillway.run(["verify", "-j", journal]).succeeded()
      try guestWrites(0x63, 0..<60)
    }

    /// Backs up `generation` on g1 if that was sealed, else on g0; returns which.
    private func base(of generation: String, until deadline: ContinuousClock.Instant) throws -> String {
      while true {
        for base in ["g1", "g0"] where try backup(generation, on: base).status == .exited(0) { return base }
        guard ContinuousClock.now < deadline, !machine.child.hasEnded(within: .milliseconds(100)) else {
          throw PeerError("no backup on g1 or g0: \(try backup(generation, on: "g0").errorLines)")
        }
      }
    }
  }
}
