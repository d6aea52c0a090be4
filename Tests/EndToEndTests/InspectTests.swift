import Foundation
import Glibc
import Peers
import QEMUMonitor
import TestKit
import Testing

extension EndToEnd {
  /// `spillway inspect` of a machine whose guest writes when the test says so, whatever dies meanwhile.
  ///
  /// Every test ends by asking the guest: none of its writes may have failed, and none may wait any longer.
  @Suite("inspect")
  struct InspectTests {
    let directory: TemporaryDirectory
    private let image: String
    private let original: String
    private let machine: QEMUMachine
    private var mount: String { directory.file("small") }
    private static let byteCount: UInt64 = 32 << 20

    init() throws {
      directory = try TemporaryDirectory()
      image = directory.file("live.raw")
      original = directory.file("original.raw")
      try PatternedImage(at: original, byteCount: Self.byteCount, seed: 0x11f3)
      try FileManager.default.copyItem(atPath: original, toPath: image)
      let second = directory.file("second.qcow2")
      try Program.qemuImg.run(["convert", "-f", "raw", "-O", "qcow2", original, second])
      machine = try QEMUMachine([.init(image), .init(second, .qcow2)], in: directory)
    }

    /// An inspection of both disks whose command copies the views to `a.raw` and `b.raw`, then ends with status 5; with 9
    /// when that fails.
    private func inspect(
      journal: String = "journal", name: String = "inspection", launcher: [String] = []
    ) throws -> GatedInspection {
      try GatedInspection(
        [
          "--qmp", machine.monitorSocket, "--disk", "a=src0", "--disk", "b=src1",
          "-j", "\(launcher.isEmpty ? directory.path : mount)/\(journal)",
        ],
        then: """
          set $view_uris
          nbdcopy "$1" '\(directory.file("a.raw"))' && nbdcopy "$2" '\(directory.file("b.raw"))' || exit 9
          exit 5
          """,
        in: directory, name: name, launcher: launcher)
    }

    /// Has the guest write to both disks, each time elsewhere; expects that it can.
    private func guestWrites(_ pattern: UInt8, _ rounds: Range<UInt64>) throws {
      for round in rounds {
        for disk in 0..<2 {
          try machine.startWrite(pattern, at: round * 5 << 16 + 4096, 4096, disk: disk)
        }
      }
      #expect(try machine.waitForWrites() == [], "errors that the guest got")
    }

    private func expectQEMUAsBefore(_ nodes: Set<String>) throws {
      #expect(try machine.monitor.execute("query-jobs") == [])
      #expect(try machine.monitor.execute("query-block-exports") == [])
      #expect(try nodeNames() == nodes)
      // There is one NBD server in a qemu: it can be started if nobody has left one.
      try machine.monitor.execute(
        "nbd-server-start",
        arguments: ["addr": ["type": "unix", "data": ["path": .string(directory.file("nobody.sock"))]]])
    }

    private func nodeNames() throws -> Set<String> {
      let nodes = try machine.monitor.execute("query-named-block-nodes").array ?? []
      return Set(nodes.compactMap { $0["node-name"]?.string })
    }

    @Test(
      "shows the moment of two disks while the guest writes, ends as its command does, and leaves nothing in qemu"
    )
    func moment() throws {
      let nodes = try nodeNames()
      let inspection = try inspect()
      try guestWrites(0x71, 0..<40)
      try inspection.goOn()
      let end = try inspection.child.finish()
      #expect(end.status == .exited(5), "\(end.errorLines)")
      try EndToEnd.expectIdentical(original, directory.file("a.raw"))
      try EndToEnd.expectIdentical(original, directory.file("b.raw"))
      try guestWrites(0x72, 0..<40)
      #expect(try machine.reads(0x72, at: 4096, 4096) && machine.reads(0x72, at: 4096, 4096, disk: 1))
      try expectQEMUAsBefore(nodes)
    }

    // Each time the guest has overwritten what the killed engine acknowledged.
    @Test(
      "killed again and again, its engine is back each time with the same view, and no write of the guest fails"
    )
    func engineKilled() throws {
      let inspection = try inspect()
      var killed: Int32 = 0
      for time in 0..<3 as Range<UInt64> {
        try guestWrites(0x71, time * 12..<time * 12 + 6)
        killed = try inspection.waitForEngine(otherThan: killed)
        kill(killed, SIGKILL)
        try guestWrites(0x72, time * 12 + 6..<time * 12 + 12)
      }
      try inspection.waitForEngine(otherThan: killed)
      try inspection.goOn()
      let end = try inspection.child.finish()
      #expect(end.status == .exited(5), "\(end.errorLines)")
      try EndToEnd.expectIdentical(original, directory.file("a.raw"))
      try EndToEnd.expectIdentical(original, directory.file("b.raw"))
      try guestWrites(0x73, 0..<40)
    }

    @Test(
      "killed itself, its engine cleans up behind it while the guest writes, and the next one shows its own moment"
    )
    func parentKilled() throws {
      let nodes = try nodeNames()
      var inspection = try inspect()
      try guestWrites(0x71, 0..<10)
      let engine = try inspection.waitForEngine(otherThan: 0)
      inspection.child.kill()
      try guestWrites(0x72, 0..<20)
      try waitUntil("the engine is gone") { kill(engine, 0) != 0 || isZombie(engine) }
      #expect(try machine.monitor.execute("query-jobs") == [])
      #expect(try nodeNames() == nodes)
      try guestWrites(0x73, 0..<30)
      try expectSecondMoment(&inspection)
    }

    @Test("killed with its engine, it leaves writes waiting that the next one lets go on, and no write fails")
    func bothKilled() throws {
      var inspection = try inspect()
      try guestWrites(0x71, 0..<10)
      let engine = try inspection.waitForEngine(otherThan: 0)
      kill(engine, SIGSTOP)
      inspection.child.kill()
      kill(engine, SIGKILL)
      // The first is for a cluster that was copied already; the second has nobody who could take its old bytes.
      try machine.startWrite(0x72, at: 4096, 512)
      try machine.startWrite(0x72, at: 30 << 20, 4096)
      try expectSecondMoment(&inspection)
      #expect(try machine.waitForWrites() == [], "errors that the guest got")
      try guestWrites(0x74, 0..<40)
    }

    /// An inspection that follows another shows the disk as it is then.
    private func expectSecondMoment(_ inspection: inout GatedInspection) throws {
      inspection = try inspect(journal: "journal-2", name: "second")
      #expect(try machine.waitForWrites() == [], "errors that the guest got")
      let now = directory.file("now.raw")
      try FileManager.default.copyItem(atPath: image, toPath: now)
      try guestWrites(0x75, 0..<40)
      try inspection.goOn()
      let end = try inspection.child.finish()
      #expect(end.status == .exited(5), "\(end.errorLines)")
      try EndToEnd.expectIdentical(now, directory.file("a.raw"))
    }

    /// Asks again and again, paced by the end of qemu, which would be the other way that this can go.
    private func waitUntil(_ what: String, isTrue: () throws -> Bool) throws {
      let deadline = ContinuousClock.now + .seconds(60)
      while try !isTrue() {
        guard ContinuousClock.now < deadline, !machine.child.hasEnded(within: .milliseconds(20)) else {
          throw PeerError("it never came about that \(what)")
        }
      }
    }

    /// Whether the process has ended and nobody has asked how.
    private func isZombie(_ id: Int32) -> Bool {
      let about = FileManager.default.contents(atPath: "/proc/\(id)/stat") ?? Data()
      return String(decoding: about, as: UTF8.self).contains(") Z ")
    }

    // The bytes of the moment have nowhere to go: the view is lost, and that must be all. That it is lost is not forgotten
    // by an engine that starts again.
    @Test(
      "on a full disk it gives up the view and not the guest: writes go on, reads fail, and the report says so",
      .enabled(if: FullDisk.tmpfs.isPossible, "mounting a tmpfs is not allowed here"))
    func fullDisk() throws {
      try FileManager.default.createDirectory(atPath: mount, withIntermediateDirectories: false)
      let inspection = try inspect(launcher: FullDisk.tmpfs.launcher(mount, mebibytes: 96, left: 16))
      for mebibyte in 0..<32 as Range<UInt64> { try machine.startWrite(0x71, at: mebibyte << 20, 1 << 20) }
      #expect(try machine.waitForWrites(within: .seconds(120)) == [], "errors that the guest got")
      let killed = try inspection.killEngine()
      try inspection.waitForEngine(otherThan: killed)
      try inspection.goOn()
      let end = try inspection.child.finish()
      #expect(end.status == .exited(9), "\(end.errorLines)")
      #expect(end.errorLines.contains { $0.contains("taint") || $0.contains("full") }, "\(end.errorLines)")
      try guestWrites(0x72, 0..<40)
    }

    @Test(
      "with qemu killed under it, reads of what has not arrived fail, and it ends with its command's status")
    func qemuKilled() throws {
      let inspection = try inspect()
      try guestWrites(0x71, 0..<10)
      machine.kill()
      try inspection.goOn()
      let end = try inspection.child.finish()
      #expect(end.status == .exited(9), "\(end.errorLines)")
    }
  }
}
