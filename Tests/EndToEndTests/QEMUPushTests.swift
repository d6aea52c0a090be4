import TestKit
import Peers
import Testing

extension EndToEnd {
  /// A backup job of a real qemu into the ingest export, with readers on the view.
  @Suite("a qemu push")
  struct QEMUPushTests {
    let directory: TemporaryDirectory
    let journal: String
    let source: String

    init() throws {
      directory = try TemporaryDirectory()
      journal = directory.file("journal")
      source = directory.file("source.raw")
    }

    // Both readers are seen to wait before qemu has sent a byte, so that every order of arrival is met by reads
    // that are already there: qemu-img with one request in flight can only have one read waiting, so any more
    // are nbdcopy's. The disk ends in a short block, as disks do.
    @Test("read from the first second on and replayed, it is identical in every copy")
    func readWhilePushed() throws {
      let image = try PatternedImage(at: source, byteCount: (128 << 20) + 1536, seed: 0x5107)
      let daemon = try SpillwayDaemon(
        journal: journal, disks: ["vda=\(image.byteCount),mode=snapshot"], in: directory)

      let (byNBDCopy, byQEMU) = (directory.file("nbdcopy.raw"), directory.file("qemu-img.raw"))
      let qemuImg = try Program.qemuImg.start([
        "convert", "-m", "1", "-f", "raw", "-O", "raw", daemon.viewURI("vda@live"), byQEMU,
      ])
      let firstWaits = try daemon.waitForStatus("waited a read of qemu-img") { $0.parkedReads > 0 }
        .parkedReads
      let nbdcopy = try Program.nbdcopy.start([daemon.viewURI("vda@live"), byNBDCopy])
      try daemon.waitForStatus("waited a read of nbdcopy") { $0.parkedReads > firstWaits }

      let qemu = try QEMUStorageDaemon(image: source, in: directory)
      try qemu.startBackup(toUnixSocket: daemon.ingestSocket, export: "vda")
      try qemu.finishBackup()
      try nbdcopy.finish().succeeded()
      try qemuImg.finish().succeeded()

      let status = try daemon.status()
      #expect(status.isComplete("vda"))
      #expect(status.waitedReads > firstWaits)
      #expect(status.parkedReads == 0)
      #expect(status.longestWaitNanoseconds > 0)

      let (online, offline) = (directory.file("online.raw"), directory.file("offline.raw"))
      try Spillway.replay(journal, "vda", to: online)
      try daemon.shutDown()
      try Spillway.replay(journal, "vda", to: offline)
      for copy in [byNBDCopy, byQEMU, online, offline] { try EndToEnd.expectIdentical(source, copy) }
    }

    // qemu may send what it was not answered for a second time, on a new connection, after every kill. The job
    // is slow enough that its middle can be met, and is let go once both kills are done.
    @Test("a daemon killed twice in the middle of it loses nothing")
    func killedInTheMiddle() throws {
      let image = try PatternedImage(at: source, byteCount: 96 << 20, seed: 0xdead)
      let start = {
        try SpillwayDaemon(
          journal: journal, disks: ["vda=\(image.byteCount),mode=snapshot"], in: directory)
      }
      var daemon = try start()
      let qemu = try QEMUStorageDaemon(image: source, in: directory)
      try qemu.startBackup(
        toUnixSocket: daemon.ingestSocket, export: "vda", reconnectSeconds: 120, bytesPerSecond: 24 << 20)
      for fraction in [0.25, 0.6] {
        try qemu.waitForProgress(past: fraction)
        daemon.kill()
        daemon = try start()
      }
      let live = directory.file("live.raw")
      let reader = try Program.nbdcopy.start([daemon.viewURI("vda@live"), live])
      try qemu.setSpeed(0)
      try qemu.finishBackup()
      try reader.finish().succeeded()
      try EndToEnd.expectIdentical(source, live)

      let status = try daemon.status()
      #expect(status.isComplete("vda"))
      #expect(status.disks.flatMap(\.generations).allSatisfy { !$0.tainted })

      // Killed once more with the whole of it acknowledged: replay recovers what the crash left, by itself, and
      // so does the next daemon.
      daemon.kill()
      let (offline, online) = (directory.file("offline.raw"), directory.file("online.raw"))
      try Spillway.replay(journal, "vda", to: offline)
      try EndToEnd.expectIdentical(source, offline)
      daemon = try start()
      try Spillway.replay(journal, "vda", to: online)
      try EndToEnd.expectIdentical(source, online)
      try daemon.shutDown()
    }

    // qemu sends every zero as WRITE_ZEROES with NO_HOLE, which makes a raw target take all of the disk.
    @Test("a sparse disk stays small")
    func sparse() throws {
      let image = try PatternedImage(at: source, byteCount: 1 << 30, seed: 0x5a, dataBytes: 12 << 20)
      let daemon = try SpillwayDaemon(
        journal: journal, disks: ["vda=\(image.byteCount),mode=snapshot"], in: directory)
      let qemu = try QEMUStorageDaemon(image: source, in: directory)
      try qemu.startBackup(toUnixSocket: daemon.ingestSocket, export: "vda")
      try qemu.finishBackup()
      // qemu's last request was a FLUSH, so all of it is on disk now.
      #expect(DiskUsage.bytes(of: journal) < 5_000_000)
      try daemon.shutDown()
      #expect(DiskUsage.bytes(of: journal) < 5_000_000)

      let replayed = directory.file("replayed.raw")
      try Spillway.replay(journal, "vda", to: replayed)
      try EndToEnd.expectIdentical(source, replayed)
      // A replayed zero takes no room either.
      #expect(DiskUsage.bytes(of: replayed) <= DiskUsage.bytes(of: source) + (1 << 20))
    }
  }
}
