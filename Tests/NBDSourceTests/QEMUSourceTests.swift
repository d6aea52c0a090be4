import Bytes
import Foundation
import NBDSource
import Peers
import QEMUMonitor
import TestKit
import Testing

@Suite("a source of qemu")
struct QEMUSourceTests {
  let directory: TemporaryDirectory

  init() throws { directory = try TemporaryDirectory() }

  @Test("has the dirty ranges that qemu recorded, merged and in order")
  func dirty() throws {
    let qemu = try daemon(byteCount: (64 << 20) + 512)
    let uri = try write(
      [(3 << 20, 4096), (21 << 20, 130 << 10), ((21 << 20) + (192 << 10), 512), (64 << 20, 512), (0, 1)],
      to: qemu)
    let source = try NBDSource(uri: uri)
    #expect(
      try source.dirtyRanges(bitmap: "t0") == [
        ByteRange(offset: 0, count: 65536),
        ByteRange(offset: 3 << 20, count: 65536),
        ByteRange(offset: 21 << 20, count: 4 * 65536),
        // The last cluster is short.
        ByteRange(offset: 64 << 20, count: 512),
      ])
  }

  @Test("that nobody wrote to has no dirty range, and a full one has one, beyond a request's size")
  func extremes() throws {
    let qemu = try daemon(byteCount: 3 << 30)
    let source = try NBDSource(uri: try write([], to: qemu))
    #expect(try source.dirtyRanges(bitmap: "t0") == [])
    source.close()
    try qemu.monitor.execute("block-export-del", arguments: ["id": "ex"])
    _ = try qemu.monitor.nextEvent(within: .seconds(30)) { $0.name == "BLOCK_EXPORT_DELETED" }
    // A bitmap of one bit for each 2 GiB is full with two writes.
    try qemu.monitor.execute(
      "block-dirty-bitmap-add",
      arguments: ["node": "src", "name": "coarse", "granularity": .integer(1 << 31)])
    let uri = try write([(0, 1), (2 << 30, 1)], to: qemu, exporting: "coarse")
    #expect(
      try NBDSource(uri: uri).dirtyRanges(bitmap: "coarse") == [ByteRange(offset: 0, count: 3 << 30)])
  }

  @Test("without the bitmap that is asked for is an error that names it")
  func missing() throws {
    let qemu = try daemon(byteCount: 1 << 20)
    let source = try NBDSource(uri: try write([], to: qemu))
    let error = #expect(throws: SourceError.self) { try source.dirtyRanges(bitmap: "t1") }
    #expect(error?.message.hasSuffix("the export does not offer qemu:dirty-bitmap:t1") == true)
  }

  @Test("can be read in parallel at any alignment, also when qemu takes one connection and lets others wait")
  func limitedConnections() throws {
    let image = directory.file("source.raw")
    try PatternedImage(at: image, byteCount: 4 << 20, seed: 7)
    let bytes = [UInt8](try Data(contentsOf: URL(fileURLWithPath: image)))
    let qemu = try QEMUStorageDaemon(image: image, in: directory)
    let schema = try qemu.monitor.schema()
    let socket = directory.file("nbd.sock")
    try qemu.monitor.startNBDServer(atUnixSocket: socket, connectionsMax: 1, schema)
    try qemu.monitor.addExport(QEMUExport(id: "src", node: "src"), schema)
    let source = try NBDSource(uri: "nbd+unix:///src?socket=\(socket)")
    let ranges = (0..<6).map { ByteRange(offset: UInt64($0) * 500_001, count: 70_003) }
    let expected = ranges.map { Array(bytes[Int($0.start)..<Int($0.end)]) }
    for _ in 0..<2 {
      #expect(Set(try Readers(ranges, of: source).join().map { try? $0.get() }) == Set(expected))
    }
  }

  private func daemon(byteCount: UInt64) throws -> QEMUStorageDaemon {
    let image = directory.file("source.raw")
    try Program.qemuImg.run(["create", "-q", "-f", "raw", image, "\(byteCount)"])
    let qemu = try QEMUStorageDaemon(image: image, in: directory)
    try qemu.monitor.execute(
      "nbd-server-start",
      arguments: ["addr": ["type": "unix", "data": ["path": .string(directory.file("nbd.sock"))]]])
    try qemu.monitor.execute("block-dirty-bitmap-add", arguments: ["node": "src", "name": "t0"])
    return qemu
  }

  /// Lets a client of qemu write, freezes the bitmap and exports it; the URI of the export.
  private func write(
    _ writes: [(offset: UInt64, count: UInt64)], to qemu: QEMUStorageDaemon, exporting bitmap: String = "t0"
  ) throws -> String {
    let uri = "nbd+unix:///src?socket=\(directory.file("nbd.sock"))"
    func export(_ more: [String: JSONValue]) throws {
      let arguments: [String: JSONValue] = ["type": "nbd", "id": "ex", "node-name": "src", "name": "src"]
      try qemu.monitor.execute(
        "block-export-add", arguments: .object(arguments.merging(more) { $1 }))
    }
    try export(["writable": true])
    let script =
      writes.map { "h.pwrite(b'x' * \($0.count), \($0.offset))" }.joined(separator: "\n") + "\nh.shutdown()"
    try Program.python.run(["-c", "import nbd\nh = nbd.NBD()\nh.connect_uri('\(uri)')\n\(script)"])
    try qemu.monitor.execute("block-export-del", arguments: ["id": "ex"])
    _ = try qemu.monitor.nextEvent(within: .seconds(30)) { $0.name == "BLOCK_EXPORT_DELETED" }
    try qemu.monitor.execute(
      "block-dirty-bitmap-disable", arguments: ["node": "src", "name": .string(bitmap)])
    try export(["bitmaps": [.string(bitmap)]])
    return uri
  }
}
