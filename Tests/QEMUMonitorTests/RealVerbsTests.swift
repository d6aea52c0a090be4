import Foundation
import Peers
import QEMUMonitor
import TestKit
import Testing

// Goal: every command that the verbs send is one that a real qemu takes, and does what the verb says.
// Method: qemu-storage-daemon with two disks, nbdkit as the targets.

@Suite("the verbs, said to a real qemu")
struct RealVerbsTests {
  let directory: TemporaryDirectory
  let qemu: QEMUStorageDaemon
  let monitor: QMPConnection
  let schema: QEMUSchema
  static let diskByteCount: UInt64 = 8 << 20

  init() throws {
    directory = try TemporaryDirectory()
    try PatternedImage(at: directory.file("a.raw"), byteCount: Self.diskByteCount, seed: 1)
    try PatternedImage(at: directory.file("b.raw"), byteCount: Self.diskByteCount, seed: 2)
    qemu = try QEMUStorageDaemon(image: directory.file("a.raw"), in: directory)
    monitor = qemu.monitor
    try monitor.execute(
      "blockdev-add",
      arguments: [
        "driver": "raw", "node-name": "other",
        "file": ["driver": "file", "filename": .string(directory.file("b.raw"))],
      ])
    schema = try monitor.schema()
  }

  @Test("its schema knows what 7.2 brought and not what later ones did")
  func schemas() throws {
    for (command, argument) in [
      ("blockdev-backup", "auto-finalize"), ("blockdev-backup", "x-perf.max-workers"),
      ("blockdev-add", "reconnect-delay"), ("blockdev-add", "open-timeout"), ("blockdev-add", "driver=nbd"),
      ("nbd-server-start", "max-connections"), ("nbd-server-start", "addr.data.path"),
      ("transaction", "actions.type=blockdev-backup"), ("transaction", "actions.data.bitmap-mode"),
      ("query-named-block-nodes", "flat"), ("block-export-add", "bitmaps"),
    ] {
      #expect(schema.has(command, argument: argument), "\(command) \(argument)")
    }
    #expect(schema.has("block-export-add") && schema.has("nbd-server-add"))
    #expect(!schema.has("transaction", argument: "actions.type=make-coffee"))
    #expect(!schema.has("blockdev-backup", argument: "make-coffee"))
    #expect(try monitor.version().description.hasPrefix("7."))
  }

  @Test(
    "a full, a before-writes and an incremental job over two disks start in one transaction, or none does")
  func transaction() throws {
    let targets = try (0..<3).map { number in
      try NBDKitMemory(byteCount: Self.diskByteCount, name: "kit\(number)", in: directory)
    }
    for (number, target) in targets.enumerated() {
      try monitor.addNBDTarget(
        "tgt\(number)", atUnixSocket: target.socket, export: "", reconnectSeconds: 5, schema)
    }
    try monitor.addBitmap("base", on: "other", granularity: 65536)
    try write(at: 3 << 20, byteCount: 4096, to: "other")

    var full = QEMUBackup(id: "full", node: "src", target: "tgt0", .full)
    full.waitsForFinalize = true
    full.workersMax = 4
    full.chunkBytesMax = 1 << 18
    let none = QEMUBackup(id: "none", node: "src", target: "tgt1", .beforeWrites)
    var marked = QEMUBackup(
      id: "marked", node: "other", target: "tgt2", .marked(bitmap: "base", .clearedOnSuccess))
    marked.waitsForFinalize = true
    marked.bytesPerSecond = 1 << 30
    let actions: [QEMUTransaction.Action] = [
      .addBitmap("t0", node: "other", granularity: 65536, isDisabled: true),
      .mergeBitmaps(["base"], into: "t0", node: "other"),
      .addBitmap("next", node: "src"), .disableBitmap("next", node: "src"),
      .enableBitmap("next", node: "src"),
      .backup(full), .backup(none), .backup(marked),
    ]
    // The last action fails, so none of the earlier ones has happened.
    #expect(throws: QMPError.self) {
      try monitor.run(
        QEMUTransaction(
          actions + [.backup(QEMUBackup(id: "bad", node: "src", target: "nowhere", .full))]))
    }
    #expect(try monitor.jobs() == [])
    #expect(try monitor.blockNode("src", schema).bitmaps == [])

    try monitor.run(QEMUTransaction(actions))
    #expect(try monitor.jobSpeed("marked") == 1 << 30)
    var seen: Set<String> = []
    try monitor.waitForJobs(["full", "marked"], toBe: ["pending"], within: .seconds(60)) { jobs in
      seen.formUnion(jobs.map(\.id))
      return true
    }
    #expect(seen == ["full", "marked"])
    // Nothing has changed until it is made final.
    let other = try monitor.blockNode("other", schema)
    #expect(other.bitmaps.first { $0.name == "base" }?.busy == true)
    let frozen = other.bitmaps.first { $0.name == "t0" }
    #expect(frozen?.count == 65536 && frozen?.recording == false)
    #expect(try monitor.blockNode("src", schema).bitmaps.map(\.recording) == [true])
    for id in ["full", "marked"] {
      try monitor.finalizeJob(id)
      try monitor.waitForJob(id, within: .seconds(60))
      try monitor.dismissJob(id)
    }
    #expect(try monitor.blockNode("other", schema).bitmaps.first { $0.name == "base" }?.count == 0)
    #expect(try monitor.jobs().map(\.id) == ["none"])
    #expect(try monitor.jobs()[0].isAlive)
    #expect(try monitor.endJob("none") == "Operation canceled")
    #expect(try monitor.endJob("none") == nil)
    #expect(try monitor.jobs() == [])
    #expect(try monitor.removeBitmap("t0", from: "other"))
    #expect(try !monitor.removeBitmap("t0", from: "other"))
    for number in targets.indices { #expect(try monitor.removeNode("tgt\(number)")) }
    #expect(try !monitor.removeNode("tgt0"))
    let copy = directory.file("copy.raw")
    try Program.nbdcopy.run([targets[0].uri, copy])
    #expect(try FileComparison.firstDifference(directory.file("a.raw"), copy) == nil)
  }

  @Test("jobs of a grouped transaction end together")
  func grouped() throws {
    let targets = try (0..<2).map { number in
      try NBDKitMemory(byteCount: Self.diskByteCount, name: "kit\(number)", in: directory)
    }
    for (number, target) in targets.enumerated() {
      try monitor.addNBDTarget(
        "tgt\(number)", atUnixSocket: target.socket, export: "", reconnectSeconds: 0, schema)
    }
    let backups = [
      QEMUBackup(id: "one", node: "src", target: "tgt0", .full),
      QEMUBackup(id: "two", node: "other", target: "tgt1", .beforeWrites),
    ]
    try monitor.run(QEMUTransaction(backups.map { .backup($0) }, isGrouped: true))
    #expect(try monitor.endJob("two") == "Operation canceled")
    #expect(throws: QMPError.jobFailed(id: "one", description: "Operation canceled")) {
      try monitor.waitForJob("one", within: .seconds(60))
    }
    try monitor.endJob("one")
  }

  @Test("a job's speed can be changed and asked for")
  func speed() throws {
    let target = try NBDKitMemory(byteCount: Self.diskByteCount, in: directory)
    try monitor.addNBDTarget("tgt", atUnixSocket: target.socket, export: "", reconnectSeconds: 0, schema)
    #expect(try monitor.jobSpeed("slow") == nil)
    var backup = QEMUBackup(id: "slow", node: "src", target: "tgt", .marked(bitmap: "b", .kept))
    backup.bytesPerSecond = 1 << 16
    try monitor.addBitmap("b", on: "src", granularity: 4096)
    try monitor.addBitmap("b2", on: "src", isDisabled: true)
    try monitor.mergeBitmaps(["b"], into: "b2", on: "src")
    try write(at: 0, byteCount: 4 << 20, to: "src")
    try monitor.run(QEMUTransaction([.backup(backup)]))
    try monitor.setJobSpeed("slow", bytesPerSecond: 1 << 20)
    #expect(try monitor.jobSpeed("slow") == 1 << 20)
    #expect(try monitor.blockJobs().map(\.device) == ["slow"])
    #expect(try monitor.blockJobs().first?.ioStatus == "ok")
    try monitor.endJob("slow")
    #expect(try monitor.blockNode("src", schema).bitmaps.first { $0.name == "b" }?.count == 4 << 20)
  }

  @Test("exports come and go, by the new commands and by the old", arguments: [true, false])
  func exports(isNew: Bool) throws {
    let schema = isNew ? schema : QEMUSchema(commands: ["nbd-server-add"])
    let socket = directory.file("nbd.sock")
    #expect(try !monitor.stopNBDServer())
    try monitor.startNBDServer(atUnixSocket: socket, schema)
    #expect(throws: QMPError.nbdServerRunning) {
      try monitor.startNBDServer(atUnixSocket: directory.file("more.sock"), schema)
    }
    try monitor.addBitmap("t0", on: "src", isDisabled: true)
    let export = QEMUExport(id: "live", node: "src", name: "live", bitmap: "t0")
    try monitor.addExport(export, schema)
    #expect(try monitor.exportIDs() == ["live"])
    let information = try Program.nbdinfo.run(["nbd+unix:///live?socket=\(socket)"]).outputText
    #expect(information.contains("export-size: \(Self.diskByteCount)"))
    #expect(information.contains("qemu:dirty-bitmap:t0"))
    #expect(information.contains("is_read_only: true"))
    // As long as it is there the bitmap is taken.
    #expect(throws: QMPError.self) { try monitor.removeBitmap("t0", from: "src") }
    try monitor.removeExport(export, schema)
    #expect(try monitor.exportIDs() == [])
    #expect(try monitor.removeBitmap("t0", from: "src"))
    try monitor.removeExport(export, schema)
    #expect(try monitor.stopNBDServer())
  }

  @Test("nodes are told with their sizes and bitmaps, and a wrong name with those that exist")
  func nodes() throws {
    try monitor.addBitmap("b", on: "src", granularity: 131_072)
    let node = try monitor.blockNode("src", schema)
    #expect(node.byteCount == Int64(Self.diskByteCount) && node.driver == "raw" && !node.isReadOnly)
    #expect(node.bitmaps.map(\.name) == ["b"])
    let bitmap = try #require(node.bitmaps.first)
    #expect(bitmap.granularity == 131_072 && bitmap.recording && bitmap.count == 0)
    #expect(bitmap.persistent == false)
    #expect(throws: QMPError.noSuchNode(name: "vda", known: ["file", "other", "src"])) {
      try monitor.blockNode("vda", schema)
    }
  }

  /// Has a client of qemu write to `node`.
  private func write(at offset: UInt64, byteCount: Int, to node: String) throws {
    let socket = directory.file("write.sock")
    try monitor.startNBDServer(atUnixSocket: socket, schema)
    let export = QEMUExport(id: "write", node: node, isWritable: true)
    try monitor.addExport(export, schema)
    try Program.python.run([
      "-c",
      "import nbd\nh = nbd.NBD()\nh.connect_uri('nbd+unix:///write?socket=\(socket)')\n"
        + "h.pwrite(b'x' * \(byteCount), \(offset))\nh.shutdown()",
    ])
    try monitor.removeExport(export, schema)
    try monitor.stopNBDServer()
  }
}
