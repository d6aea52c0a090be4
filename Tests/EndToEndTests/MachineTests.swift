import Peers
import QEMUMonitor
import TestKit
import Testing

extension EndToEnd {
  /// The machine without a guest is a peer like the others: what it says of its disks must be so.
  @Suite("a machine without a guest")
  struct MachineTests {
    let directory: TemporaryDirectory

    init() throws { directory = try TemporaryDirectory() }

    @Test("writes to its disks, raw or qcow2, and reads back what it wrote and nothing else")
    func writesAndReads() throws {
      let (raw, qcow2) = (directory.file("a.raw"), directory.file("b.qcow2"))
      try Program.qemuImg.run(["create", "-q", "-f", "raw", raw, "16M"])
      try Program.qemuImg.run(["create", "-q", "-f", "qcow2", qcow2, "16M"])
      let machine = try QEMUMachine([.init(raw), .init(qcow2, .qcow2)], in: directory)
      for disk in 0..<machine.diskCount {
        for (pattern, offset) in [(UInt8(0x51), UInt64(1 << 20)), (0x52, 3 << 20)] {
          try machine.startWrite(pattern, at: offset, 4096, disk: disk)
        }
        try machine.startWrite(0x53, at: 5 << 20, 4096, disk: disk)
        #expect(try machine.waitForWrites() == [])
        try machine.startZeroing(at: 5 << 20, 512, disk: disk)
        #expect(try machine.waitForWrites() == [])
        #expect(machine.unansweredWrites == 0)
        #expect(try machine.reads(0x51, at: 1 << 20, 4096, disk: disk))
        #expect(try machine.reads(0x52, at: 3 << 20, 4096, disk: disk))
        #expect(try machine.reads(0, at: 5 << 20, 512, disk: disk))
        #expect(try machine.reads(0x53, at: (5 << 20) + 512, 3584, disk: disk))
        #expect(try !machine.reads(0x51, at: (1 << 20) - 512, 1024, disk: disk))
      }
    }

    @Test("serves the program under test and the test on two monitors at once")
    func monitors() throws {
      let raw = directory.file("a.raw")
      try Program.qemuImg.run(["create", "-q", "-f", "raw", raw, "1M"])
      let machine = try QEMUMachine([.init(raw)], in: directory)
      let other = try QMPConnection(connectingTo: machine.monitorSocket)
      let status = try other.execute("query-status")
      #expect(status["running"] == false)
      #expect(try machine.monitor.execute("query-status") == status)
    }

    // Copy-before-write makes the guest wait for the target; a target that is stopped holds the write, and one that is
    // gone fails it. Both must show here, or a test that says "the guest never waited" says nothing.
    @Test("under a backup job its writes wait for the target, and fail with it")
    func waitsForTarget() throws {
      let raw = directory.file("a.raw")
      try PatternedImage(at: raw, byteCount: 4 << 20, seed: 7)
      let machine = try QEMUMachine([.init(raw)], in: directory)
      let socket = directory.file("target.sock")
      let target = try Program.nbdkit.start([
        "--foreground", "--verbose", "--unix", socket, "memory", "size=\(4 << 20)",
      ])
      try target.waitForErrorLine(containing: "bound to unix socket", within: .seconds(30))
      try machine.monitor.execute(
        "blockdev-add",
        arguments: [
          "driver": "nbd", "node-name": "target", "server": ["type": "unix", "path": .string(socket)],
        ])
      try machine.monitor.execute(
        "blockdev-backup",
        arguments: ["job-id": "moment", "device": "src0", "target": "target", "sync": "none"])

      target.send(19)  // SIGSTOP
      try machine.startWrite(0x99, at: 1 << 20, 4096)
      #expect(machine.unansweredWrites == 1)
      // The job's liveness is asked for over the same main loop that the write came from: it goes on meanwhile.
      #expect(try machine.monitor.job("moment")?.status == "running")
      #expect(machine.unansweredWrites == 1)
      target.send(18)  // SIGCONT
      #expect(try machine.waitForWrites() == [])

      target.kill()
      try machine.startWrite(0x9a, at: 2 << 20, 4096)
      #expect(try machine.waitForWrites() == ["aio_write failed: Input/output error"])
      // A cluster that was copied before does not need the target any more.
      try machine.write(0x9b, at: (1 << 20) + 8192, 4096)
      #expect(try machine.reads(0x9b, at: (1 << 20) + 8192, 4096))
    }
  }
}
