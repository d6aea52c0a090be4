import Peers
import QEMUMonitor
import TestKit
import Testing

extension VirtualMachine {
  /// A full backup of a guest that goes on writing, by qemu's own commands.
  @Suite("a push of a running guest's disk")
  struct PushTests {
    let directory: TemporaryDirectory

    init() throws { directory = try TemporaryDirectory() }

    // The job is so slow that libguestfs meets it in its middle: many of its reads wait.
    @Test("shows libguestfs the moment at which the job began, while it runs")
    func push() throws {
      let guest = try LinuxGuest(in: directory)
      let daemon = try SpillwayDaemon(
        journal: directory.file("journal"), disks: ["root=\(LinuxGuest.imageBytes),mode=snapshot"],
        in: directory)
      try guest.waitForRound(40)

      let monitor = guest.machine.monitor
      try monitor.execute(
        "blockdev-add",
        arguments: [
          "driver": "nbd", "node-name": "target", "export": "root", "reconnect-delay": 60,
          "server": ["type": "unix", "path": .string(daemon.ingestSocket)],
        ])
      let written = guest.lastRound
      try monitor.execute(
        "blockdev-backup",
        arguments: [
          "job-id": "push", "device": .string(guest.machine.node()), "target": "target", "sync": "full",
          "auto-dismiss": false, "speed": .integer(4 << 20),
        ])
      let next = try guest.make("AFTER")

      let seen = SeenDisk(copy: directory.file("seen.raw"), archive: directory.file("seen.tar"))
      let nbdcopy = try Program.nbdcopy.start([daemon.viewURI("root@live"), seen.copy])
      try Libguestfs.pack(Libguestfs.disk("root@live", socket: daemon.viewSocket), into: seen.archive)
      try monitor.waitForJob("push", within: .seconds(240))
      try nbdcopy.finish().succeeded()
      #expect(try daemon.status().waitedReads > 0)

      #expect(try !seen.has("AFTER"))
      try seen.expectMoment(after: written, before: next, in: directory)
      try guest.waitForMoreRounds(20)
      #expect(guest.complaints == [])
      guest.machine.kill()
      try guest.expectOnDisk("AFTER", madeInRound: next)
    }
  }
}
