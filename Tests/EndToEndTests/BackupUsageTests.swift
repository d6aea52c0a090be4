import Foundation
import Peers
import QEMUMonitor
import TestKit
import Testing

extension EndToEnd {
  /// Goal: what cannot be a backup is refused with its reason, before anything is changed in qemu.
  /// Method: one wrong thing after the other is asked for; then a right one must work, and nothing may be left.
  @Suite("a backup that is asked for wrongly")
  struct BackupUsageTests {
    let directory: TemporaryDirectory
    let guest: BackupGuest

    init() throws {
      directory = try TemporaryDirectory()
      guest = try BackupGuest(byteCount: 2 << 20, seed: 1, in: directory)
    }

    private func refuse(_ status: Int32, _ words: String, _ arguments: String...) throws {
      try guest.start(arguments).finish(within: .seconds(60)).expectFailure(status, words)
    }

    @Test("on a base that is not there or is not sealed, or under a name that is taken")
    func names() throws {
      try refuse(1, "nobody knows what has changed since g0", "--incremental", "g0")
      try guest.keep("g1")
      try refuse(1, "has a bitmap spillway-g1 already", "--name", "g1")
      try refuse(2, "--name", "--name", "a/b")
      try refuse(2, "and not live", "--name", "live")
      try refuse(2, "--speed", "--speed", "fast")
      // Somebody has removed or added a bitmap.
      let monitor = guest.machine.monitor
      try monitor.addBitmap("spillway-other", on: "src0")
      try refuse(1, "has a bitmap spillway-other already", "--name", "other")
      try refuse(2, "has no generation other to be a base", "--incremental", "other")
      try monitor.removeBitmap("spillway-other", from: "src0")
      try monitor.removeBitmap("spillway-g1", from: "src0")
      try refuse(1, "make a full backup", "--incremental", "g1")
      try refuse(2, "has a generation g1 already", "--name", "g1")
      // One that was ended has its name for ever, and is no base.
      let held = try HeldStage("sessionMoment", in: directory)
      let stopped = try guest.start(["--name", "ended"], environment: held.environment)
      try held.meet(stopped) { stopped.terminate() }
      try stopped.finish(within: .seconds(60)).expectFailure(1, "SIGTERM")
      try refuse(2, "has a generation ended already", "--name", "ended")
      try monitor.addBitmap("spillway-ended", on: "src0")
      try refuse(2, "cannot be a base, for it is not sealed", "--incremental", "ended")
      try monitor.removeBitmap("spillway-ended", from: "src0")
      #expect(try guest.states() == ["g1 full sealed", "ended full ended"])
      try guest.keep("g2")
      try guest.expectContent("g1", "g2")
      try guest.expectNothingLeft(bitmapsOf: ["g2"])
    }

    @Test("of one disk too many, begins none of the others")
    func oneOfTwo() throws {
      let other = try BackupGuest(
        ["root", "data"], byteCount: 2 << 20, seed: 1, in: try TemporaryDirectory())
      try other.startAlone(["-j", other.journal, "--disk", "data=src1", "--name", "g1"])
        .finish(within: .seconds(60)).succeeded()
      try other.machine.monitor.removeBitmap("spillway-g1", from: "src1")
      try other.run("--name", "g1").expectFailure(2, "disk data has a generation g1 already")
      try other.keep("g2")
      try other.expectContent("g2")
      try other.expectNothingLeft(bitmapsOf: ["g2"])
    }

    // qemu's bitmap has the name of the generation, and not that of disk or journal.
    @Test("on a base that is another disk's, or with a bitmap that is another journal's, is not sealed")
    func foreignBase() throws {
      let other = try BackupGuest(["root", "data"], seed: 2, in: try TemporaryDirectory())
      try other.keep("g1")
      let swapped = try other.startAlone([
        "-j", other.journal, "--disk", "root=src1", "--disk", "data=src0", "--incremental", "g1", "--name",
        "swapped",
      ])
      try swapped.finish(within: .seconds(60)).expectFailure(1, "src1 is not what root@g1 was made of")
      try other.expectNothingLeft(bitmapsOf: ["g1"])
      // Another journal takes the name when the bitmap has gone with the next one.
      try other.keep("g2", on: "g1")
      try other.write(0x51, at: 1 << 20, 4 << 20)
      let second = other.directory.file("second")
      try other.startAlone(["-j", second, "--disk", "root=src0", "--name", "g1"])
        .finish(within: .seconds(60)).succeeded()
      let stale = try other.startAlone([
        "-j", other.journal, "--disk", "root=src0", "--incremental", "g1", "--name", "stale",
      ])
      try stale.finish(within: .seconds(60)).expectFailure(1, "root@g1", "make a full backup")
      try other.keep("g3", on: "g2")
      try other.expectContent("g1", "g2", "g3")
    }

    @Test("into a journal that is served, damaged, or knows the disk otherwise")
    func journals() throws {
      let daemon = try SpillwayDaemon(journal: guest.journal, disks: ["root=2M"], in: directory)
      try refuse(4, "is in use by another spillway")
      try daemon.shutDown()
      try refuse(2, "device")
      try FileManager.default.removeItem(atPath: guest.journal)
      try guest.keep("g1")
      try guest.machine.monitor.execute(
        "block_resize", arguments: ["node-name": "src0", "size": .integer(4 << 20)])
      try refuse(2, "bytes", "--incremental", "g1")
      try guest.machine.monitor.execute(
        "block_resize", arguments: ["node-name": "src0", "size": .integer(2 << 20)])
      try guest.keep("g2", on: "g1")
      try guest.expectContent("g1", "g2")
      try guest.expectNothingLeft(bitmapsOf: ["g2"])
      try Data("no superblock".utf8).write(to: URL(fileURLWithPath: "\(guest.journal)/journal"))
      try refuse(3, "superblock")
      try guest.expectNothingLeft(bitmapsOf: ["g2"])
    }

    @Test("while qemu's NBD server is somebody else's, which is left alone and can be named")
    func foreignServer() throws {
      let monitor = guest.machine.monitor
      let socket = directory.file("foreign.sock")
      try monitor.startNBDServer(atUnixSocket: socket, monitor.schema())
      try refuse(1, "name it with --nbd-server")
      try refuse(2, "an NBD URI is needed", "--nbd-server", socket)
      try guest.remember("g1")
      try guest.run("--name", "g1", "--nbd-server", "nbd+unix:///?socket=\(socket)").succeeded()
      #expect(try monitor.stopNBDServer(), "it was stopped")
      try guest.expectContent("g1")
      try guest.expectNothingLeft(bitmapsOf: ["g1"])
    }

    @Test("while another one of the same machine runs")
    func twoAtOnce() throws {
      let held = try HeldStage("sessionMoment", in: directory)
      try guest.remember("g1")
      let first = try guest.start(["--name", "g1"], environment: held.environment)
      try held.meet(first) { try refuse(1, "another session of spillway uses") }
      try first.finish(within: .seconds(60)).succeeded()
      try guest.expectContent("g1")
      try guest.expectNothingLeft(bitmapsOf: ["g1"])
    }

    @Test("is no matter to verify, which names generation and bytes when a sealed one has changed")
    func verify() throws {
      try guest.keep("g1")
      try guest.write(0x51, at: 1 << 20, 4096)
      try guest.keep("g2", on: "g1")
      try guest.expectClean()
      let json = try Spillway.run(["status", "-j", guest.journal, "--json"]).succeeded().outputText
      #expect(json.split(separator: "\"sealed\"").count == 3, "\(json)")
      let segment = "\(guest.journal)/segments/0000000000000001.seg"
      let file = try #require(FileHandle(forUpdatingAtPath: segment))
      try file.seek(toOffset: 300 << 10)
      let byte = try #require(try file.read(upToCount: 1)?.first)
      try file.seek(toOffset: 300 << 10)
      file.write(Data([~byte]))
      try file.close()
      let damaged = try Spillway.run(["verify", "-j", guest.journal])
      #expect(damaged.status == .exited(1))
      #expect(damaged.outputText.hasPrefix("root@g1 bytes "), "\(damaged.outputText)")
    }
  }
}
