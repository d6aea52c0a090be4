import Foundation
import Glibc
import Peers
import QEMUMonitor
import TestKit
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

  @Test("a second client is told that another holds the monitor, and comes in when that has left")
  func occupied() throws {
    try PatternedImage(at: source, byteCount: 1 << 20, seed: 4)
    let qemu = try QEMUStorageDaemon(image: source, in: directory)
    let path = qemu.monitor.path
    #expect(throws: QMPError.occupied(path: path)) {
      _ = try QMPConnection(connectingTo: path, timeout: .milliseconds(100))
    }
    // The first begins anew: between its two connections the socket belongs to nobody.
    try qemu.monitor.reconnect()
    #expect(try qemu.monitor.version().major >= 7)
  }

  @Test("a reconnect reaches whoever listens now; to nobody it fails, and so does what follows")
  func reconnect() throws {
    try PatternedImage(at: source, byteCount: 1 << 20, seed: 5)
    let qemu = try QEMUStorageDaemon(image: source, in: directory)
    qemu.child.kill()
    #expect(throws: QMPError.self) { try qemu.monitor.execute("query-jobs") }
    #expect(throws: QMPError.cannotConnect(path: qemu.monitor.path, errno: ECONNREFUSED)) {
      try qemu.monitor.reconnect()
    }
    #expect(throws: QMPError.closed(awaited: "room for query-jobs")) {
      try qemu.monitor.execute("query-jobs")
    }
    try FileManager.default.removeItem(atPath: qemu.monitor.path)
    let other = try QEMUStorageDaemon(image: source, in: directory)
    other.monitor.disconnect()
    try qemu.monitor.reconnect()
    #expect(try qemu.monitor.jobs() == [])
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
