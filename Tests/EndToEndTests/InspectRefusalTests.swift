import Foundation
import Glibc
import Peers
import QEMUMonitor
import TestKit
import Testing

extension EndToEnd {
  /// Goal: what cannot be inspected is refused in one line that says what to do, and nothing of anybody else's is touched.
  /// Method: real programs in the way: another client of the monitor, another NBD server, another job.
  @Suite("an inspection that cannot be")
  struct InspectRefusalTests {
    let directory: TemporaryDirectory

    init() throws { directory = try TemporaryDirectory() }

    /// Expects `end` to be one line on stderr that contains each of `words`, and `status`.
    private func expect(
      _ end: FinishedProcess, _ status: Int32, _ words: String..., location: SourceLocation = #_sourceLocation
    ) {
      #expect(end.status == .exited(status), "\(end.errorLines)", sourceLocation: location)
      let lines = end.errorLines.filter { !$0.contains("caught ") }
      #expect(lines.count == 1, "\(end.errorLines)", sourceLocation: location)
      for word in words {
        #expect(lines.first?.contains(word) == true, "\(word): \(end.errorLines)", sourceLocation: location)
      }
    }

    @Test("because there is no such disk, COMMAND or machine says so, and leaves nothing")
    func missing() throws {
      let inspected = try InspectedMachine(byteCount: 1 << 20, in: directory)
      let mark = directory.file("ran")
      let command = ["/bin/touch", mark]
      expect(try inspected.run(disks: ["root=src7"], command: command), 2, "src7", "src0", "file0")
      expect(try inspected.run(disks: ["root=src0", "more=disk0"], command: command), 2, "src0", "twice")
      expect(try inspected.run(disks: [], command: command), 2, "--disk")
      #expect(access(mark, F_OK) != 0)
      expect(try inspected.run(command: ["/nowhere/command"]), 1, "/nowhere/command", "No such file")
      expect(try inspected.run(command: ["\(directory.path)"]), 1, directory.path, "Permission denied")
      let nowhere = try inspected.run(command: command, environment: ["TMPDIR": "/nowhere"])
      expect(nowhere, 1, "/nowhere/spillway-", "-j DIR")
      #expect(access(mark, F_OK) != 0)
      try inspected.expectNothingLeft()

      let socket = directory.file("nobody.sock")
      let nobody = try Spillway.start(
        ["inspect", "--qmp", socket, "--disk", "src0", "--", "/bin/true"], environment: inspected.environment)
      expect(try nobody.finish(), 1, socket, "No such file")
    }

    @Test("because another client holds the monitor says so when the time is up, and waits for it until then")
    func occupied() throws {
      let inspected = try InspectedMachine(byteCount: 1 << 20, in: directory)
      var other: QMPConnection? = try QMPConnection(connectingTo: inspected.machine.monitorSocket)
      let end = try inspected.run(["--monitor-timeout", "0.2"], command: ["/bin/true"])
      expect(end, 1, "another program holds the monitor", inspected.machine.monitorSocket)
      let waiting = try Spillway.start(
        inspected.arguments(["--monitor-timeout", "60"], command: ["/bin/true"]),
        environment: inspected.environment)
      _ = try other?.execute("query-jobs")
      other = nil
      try waiting.finish(within: .seconds(60)).succeeded()
      try inspected.expectNothingLeft()
    }

    @Test("because an NBD server of somebody else runs in qemu leaves that alone, and --nbd-server shares it")
    func foreignServer() throws {
      let inspected = try InspectedMachine(in: directory)
      let socket = directory.file("theirs.sock")
      let qemu = inspected.machine.monitor
      try qemu.execute(
        "nbd-server-start", arguments: ["addr": ["type": "unix", "data": ["path": .string(socket)]]])
      try qemu.execute(
        "block-export-add",
        arguments: ["type": "nbd", "id": "theirs", "node-name": "src0", "name": "theirs", "writable": false])
      let uri = "nbd+unix:///?socket=\(socket)"
      let theirs = "nbd+unix:///theirs?socket=\(socket)"
      let mark = directory.file("ran")

      expect(try inspected.run(command: ["/bin/touch", mark]), 1, "--nbd-server")
      #expect(access(mark, F_OK) != 0)
      try Program.nbdinfo.run(["--size", theirs])

      let session = try inspected.inspect(["--nbd-server", uri])
      try inspected.write(0x61, at: 0, 1 << 20)
      try session.expectMoment()
      #expect(try session.finish().status == .exited(0))
      try Program.nbdinfo.run(["--size", theirs])
      #expect(try qemu.exportIDs() == ["theirs"])

      // A wrong address: the jobs run by then.
      let wrong = try inspected.run(
        ["--nbd-server", "nbd+unix:///?socket=\(directory.file("nobody.sock"))"],
        command: ["/bin/touch", mark])
      #expect(wrong.status == .exited(1), "\(wrong.errorLines)")
      #expect(access(mark, F_OK) != 0)
      try Program.nbdinfo.run(["--size", theirs])
      try qemu.execute("nbd-server-stop")
      try inspected.expectNothingLeft()
    }

    @Test("because another session has the machine says so, and that goes on; another's job is no hindrance")
    func busy() throws {
      let inspected = try InspectedMachine(in: directory)
      let first = try inspected.inspect()
      expect(try inspected.run(command: ["/bin/true"]), 1, "another session", inspected.machine.monitorSocket)
      try inspected.write(0x62, at: 0)
      try first.expectMoment()
      #expect(try first.finish(3).status == .exited(3))

      let qemu = inspected.machine.monitor
      let target = directory.file("target.raw")
      try Program.qemuImg.run(["create", "-f", "raw", target, "4M"])
      try qemu.execute(
        "blockdev-add", arguments: ["driver": "file", "node-name": "target", "filename": .string(target)])
      try qemu.execute(
        "blockdev-backup",
        arguments: ["job-id": "theirs", "device": "src0", "target": "target", "sync": "none"])
      // Two jobs get along.
      try inspected.note(0x62, at: 0)
      let second = try inspected.inspect()
      try inspected.write(0x64, at: 0, 1 << 20)
      try second.expectMoment()
      #expect(try second.finish().status == .exited(0))
      #expect(try qemu.jobs().map(\.id) == ["theirs"])
      try qemu.endJob("theirs")
      try qemu.execute("blockdev-del", arguments: ["node-name": "target"])
      try inspected.expectNothingLeft()
    }

    @Test("because its journal is another's is status 4, and the guest notices nothing")
    func journalInUse() throws {
      let inspected = try InspectedMachine(byteCount: 1 << 20, in: directory)
      let daemon = try SpillwayDaemon(journal: directory.file("journal"), disks: ["vda=1M"], in: directory)
      let end = try inspected.run(["-j", daemon.journal], command: ["/bin/true"])
      expect(end, 4, daemon.journal)
      try inspected.write(0x63, at: 0)
      try inspected.expectNothingLeft()
      try daemon.shutDown()
      // A disk that it has already, of another size.
      try Spillway.run(["status", "-j", daemon.journal]).succeeded()
      let other = try inspected.run(disks: ["vda=file0"], ["-j", daemon.journal], command: ["/bin/true"])
      #expect(other.status != .exited(0), "a device disk is no place for a moment")
      try inspected.expectNothingLeft()
    }

    @Test("because virsh is missing says so")
    func withoutVirsh() throws {
      let end = try Spillway.start(
        ["inspect", "--libvirt", "guest", "--disk", "vda", "--", "/bin/true"],
        environment: [
          "SPILLWAY_RUNTIME_DIR": directory.file("run"), "TMPDIR": directory.path, "PATH": directory.path,
        ]
      ).finish()
      expect(end, 1, "virsh is not installed")
    }
  }
}
