import Foundation
import Peers
import QEMUMonitor
import TestKit
import Testing

extension VirtualMachine {
  /// A view of a running guest's disk that copies nothing but what the guest overwrites, by qemu's own commands: what
  /// `spillway inspect` does, step by step.
  @Suite("a view that reads a running guest's disk")
  struct SourceTests {
    let directory: TemporaryDirectory
    let guest: LinuxGuest
    let seen: SeenDisk
    private let source: String
    private let momentImage: String
    /// With a UUID, as Spillway's own jobs: a daemon that starts again may take it for the job that it knew.
    private let job = "spillway-\(UUID().uuidString.lowercased())-root"

    init() throws {
      directory = try TemporaryDirectory()
      seen = SeenDisk(copy: directory.file("seen.raw"), archive: directory.file("seen.tar"))
      guest = try LinuxGuest(in: directory)
      source = directory.file("source.sock")
      momentImage = directory.file("moment.raw")
      try guest.waitForRound(40)
      let monitor = guest.machine.monitor
      try monitor.execute(
        "nbd-server-start", arguments: ["addr": ["type": "unix", "data": ["path": .string(source)]]])
      try monitor.execute(
        "block-export-add",
        arguments: [
          "type": "nbd", "id": "source", "node-name": .string(guest.machine.node()), "name": "root",
        ])
    }

    @Test("shows libguestfs the moment at which the job began, and the guest goes on")
    func moment() throws {
      let daemon = try startDaemon()
      let (written, next) = try begin(on: daemon)
      try guest.waitForMoreRounds(20)
      try look(through: daemon)
      try expectEnd(after: written, before: next)
    }

    // What it had acknowledged is nowhere but in its ring and its journal: the guest has overwritten it since. Without a
    // target the guest's writes wait, for as long as qemu tries to reach one.
    @Test("is the same when the daemon is killed and started again, and the guest goes on")
    func killed() throws {
      var daemon = try startDaemon()
      let (written, next) = try begin(on: daemon)
      try guest.waitForMoreRounds(20)
      daemon.kill()
      daemon = try startDaemon()
      try guest.waitForMoreRounds(20)
      try look(through: daemon)
      try expectEnd(after: written, before: next)
    }

    private func startDaemon() throws -> SpillwayDaemon {
      try SpillwayDaemon(
        journal: directory.file("journal"), disks: ["root=\(LinuxGuest.imageBytes),mode=snapshot"],
        in: directory,
        [
          "--qmp", guest.machine.monitorSocket,
          "--source", "root=nbd+unix:///root?socket=\(source),job=\(job)",
        ])
    }

    /// Starts the job; returns the last round that was done before, and the first that had not begun.
    private func begin(on daemon: SpillwayDaemon) throws -> (written: Int, next: Int) {
      let monitor = guest.machine.monitor
      try monitor.execute(
        "blockdev-add",
        arguments: [
          "driver": "nbd", "node-name": "target", "export": "root", "reconnect-delay": 60,
          "server": ["type": "unix", "path": .string(daemon.ingestSocket)],
        ])
      let written = guest.lastRound
      // Held for an instant, the guest's disk is what the view must be, byte for byte.
      try monitor.execute("stop")
      try FileManager.default.copyItem(atPath: guest.image, toPath: momentImage)
      try monitor.execute(
        "blockdev-backup",
        arguments: [
          "job-id": .string(job), "device": .string(guest.machine.node()), "target": "target", "sync": "none",
          "auto-dismiss": false,
        ])
      try monitor.execute("cont")
      return (written, try guest.make("AFTER"))
    }

    private func look(through daemon: SpillwayDaemon) throws {
      try Libguestfs.pack(Libguestfs.disk("root@live", socket: daemon.viewSocket), into: seen.archive)
      try Program.nbdcopy.run([daemon.viewURI("root@live"), seen.copy])
    }

    private func expectEnd(after written: Int, before next: Int) throws {
      #expect(try guest.machine.monitor.job(job)?.status == "running")
      let difference = try FileComparison.firstDifference(momentImage, seen.copy)
      #expect(difference == nil, "\(difference ?? "")")
      #expect(try !seen.has("AFTER"))
      try seen.expectMoment(after: written, before: next, in: directory)
      try guest.waitForMoreRounds(20)
      #expect(guest.complaints == [])
      guest.machine.kill()
      try guest.expectOnDisk("AFTER", madeInRound: next)
    }
  }
}
