import TestKit
import Peers
import QEMUMonitor
import Testing

@Suite("qemu's own monitor")
struct RealMonitorTests {
  let directory: TemporaryDirectory
  let source: String

  init() throws {
    directory = try TemporaryDirectory()
    source = directory.file("source.raw")
  }

  @Test("a backup pushed to another NBD server ends well and the copy is identical")
  func push() throws {
    try PatternedImage(at: source, byteCount: 16 << 20, seed: 1)
    let server = try NBDKitMemory(byteCount: 16 << 20, in: directory)
    defer { server.child.kill() }
    let qemu = try QEMUStorageDaemon(image: source, in: directory)
    try qemu.startBackup(toUnixSocket: server.socket, export: "")
    var seen: [String] = []
    try qemu.finishBackup { seen.append($0.status) }
    #expect(seen.last == "concluded")
    let copy = directory.file("copy.raw")
    try Program.nbdcopy.run([server.uri, copy])
    #expect(try FileComparison.firstDifference(source, copy) == nil)
  }

  @Test("a job whose target goes away fails with qemu's reason")
  func failedJob() throws {
    try PatternedImage(at: source, byteCount: 16 << 20, seed: 2)
    let server = try NBDKitMemory(byteCount: 16 << 20, in: directory)
    defer { server.child.kill() }
    let qemu = try QEMUStorageDaemon(image: source, in: directory)
    // One mebibyte a second: the job is in its middle whenever the server dies.
    try qemu.startBackup(toUnixSocket: server.socket, export: "", bytesPerSecond: 1 << 20)
    server.child.kill()
    try qemu.setSpeed(0)
    let error = #expect(throws: QMPError.self) { try qemu.finishBackup() }
    #expect(error.map { if case .jobFailed(QEMUStorageDaemon.job, _) = $0 { true } else { false } } == true)
  }

  @Test("a command that qemu does not know is refused with its class")
  func refusal() throws {
    try PatternedImage(at: source, byteCount: 1 << 20, seed: 3)
    let qemu = try QEMUStorageDaemon(image: source, in: directory)
    #expect(
      throws: QMPError.refused(
        command: "make-coffee", class: "CommandNotFound",
        description: "The command make-coffee has not been found")
    ) { try qemu.monitor.execute("make-coffee") }
  }
}

/// nbdkit with a disk in memory: somebody else's NBD server, to tell our faults from qemu's.
private final class NBDKitMemory {
  let child: ChildProcess
  let socket: String
  var uri: String { "nbd+unix:///?socket=\(socket)" }

  init(byteCount: UInt64, in directory: TemporaryDirectory) throws {
    socket = directory.file("nbdkit.sock")
    child = try Program.nbdkit.start([
      "--foreground", "--verbose", "--unix", socket, "memory", "size=\(byteCount)",
    ])
    // Its debug log is the only thing that says when it listens.
    try child.waitForErrorLine(containing: "bound to unix socket", within: .seconds(30))
  }
}
