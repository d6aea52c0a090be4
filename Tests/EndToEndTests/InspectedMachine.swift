import Foundation
import Glibc
import Peers
import QEMUMonitor
import TestKit
import Testing

/// A machine whose disks are inspected, with the places that sessions on it use. For one thread at a time.
final class InspectedMachine {
  let directory: TemporaryDirectory
  let machine: QEMUMachine
  /// Raw images of what is on its disks.
  let originals: [String]
  /// Where runtime directories lie, and where temporary journals.
  let runtimeDirectory: String
  let temporaryJournals: String
  /// Files in shared memory that belong to journals of sessions.
  private var rings: Set<String> = []
  private var sessionCount = 0

  /// A machine with a disk of `byteCount` bytes for each of `formats`.
  init(
    _ formats: [QEMUMachine.Disk.Format] = [.raw], byteCount: UInt64 = 4 << 20, seed: UInt64 = 11,
    in directory: TemporaryDirectory
  ) throws {
    self.directory = directory
    runtimeDirectory = directory.file("run")
    temporaryJournals = directory.file("tmp")
    try FileManager.default.createDirectory(atPath: temporaryJournals, withIntermediateDirectories: false)
    let originals = formats.indices.map { directory.file("original\($0).raw") }
    self.originals = originals
    let disks = try formats.enumerated().map { index, format in
      let live = directory.file("live\(index).\(format)")
      try PatternedImage(at: originals[index], byteCount: byteCount, seed: seed + UInt64(index))
      try Program.qemuImg.run(["convert", "-f", "raw", "-O", format.rawValue, originals[index], live])
      return QEMUMachine.Disk(live, format)
    }
    machine = try QEMUMachine(disks, in: directory)
  }

  /// `spillway inspect` of the nodes `disks` (nil: `root=src0`) with `options`, about to be started.
  func arguments(disks: [String]? = nil, _ options: [String] = [], command: [String] = []) -> [String] {
    ["inspect", "--qmp", machine.monitorSocket]
      + (disks ?? ["root=\(machine.node())"]).flatMap { ["--disk", $0] }
      + options + (command.isEmpty ? [] : ["--"] + command)
  }

  /// What a session finds in its environment.
  var environment: [String: String] {
    ["SPILLWAY_RUNTIME_DIR": runtimeDirectory, "TMPDIR": temporaryJournals]
  }

  /// Runs `spillway inspect` to its end.
  func run(
    disks: [String]? = nil, _ options: [String] = [], command: [String],
    environment more: [String: String] = [:]
  ) throws -> FinishedProcess {
    try Spillway.start(
      arguments(disks: disks, options, command: command), environment: environment.merging(more) { $1 }
    ).finish(within: .seconds(60))
  }

  /// Starts `spillway inspect` with a command that waits, and returns when that runs: the moment is over.
  func inspect(
    disks: [String]? = nil, _ options: [String] = [], launcher: [String] = [], script: String? = nil,
    environment more: [String: String] = [:]
  ) throws -> RunningInspection {
    sessionCount += 1
    return try RunningInspection(
      self, number: sessionCount, arguments: { self.arguments(disks: disks, options, command: $0) },
      launcher: launcher, script: script, environment: environment.merging(more) { $1 })
  }

  /// Has the guest write, and expects that it notices nothing.
  func write(
    _ pattern: UInt8, _ byteCount: UInt64 = 65536, at offsets: UInt64..., disk: Int = 0,
    _ location: SourceLocation = #_sourceLocation
  ) throws {
    for offset in offsets { try machine.startWrite(pattern, at: offset, byteCount, disk: disk) }
    #expect(try machine.waitForWrites() == [], "a guest's write failed", sourceLocation: location)
  }

  /// Takes down in the raw image what the guest wrote before the moment.
  func note(_ pattern: UInt8, _ byteCount: Int = 65536, at offset: UInt64, disk: Int = 0) throws {
    let file = try #require(FileHandle(forUpdatingAtPath: originals[disk]))
    try file.seek(toOffset: offset)
    try file.write(contentsOf: Data(repeating: pattern, count: byteCount))
  }

  /// The runtime directory of the sessions on this machine; nil before the first.
  var sessionDirectory: String? {
    (try? FileManager.default.contentsOfDirectory(atPath: runtimeDirectory))?.first.map {
      "\(runtimeDirectory)/\($0)"
    }
  }

  /// What lies in the runtime directory and among the temporary journals.
  var leavings: [String] {
    let files = FileManager.default
    let here = files.enumerator(atPath: runtimeDirectory)?.compactMap { $0 as? String } ?? []
    return here + ((try? files.contentsOfDirectory(atPath: temporaryJournals)) ?? [])
  }

  /// Remembers where the spool of the journal in `journal` (nil: the temporary one) is.
  func noteRing(of journal: String? = nil) throws {
    let temporary = try FileManager.default.contentsOfDirectory(atPath: temporaryJournals)
    for path in journal.map({ [$0] }) ?? temporary.map({ "\(temporaryJournals)/\($0)" }) {
      guard let bytes = FileManager.default.contents(atPath: path + "/journal") else { continue }
      let text = String(decoding: bytes, as: UTF8.self)
      if let found = text.firstMatch(of: /\/dev\/shm\/spillway-[0-9a-f-]+\.ring/) {
        rings.insert(String(found.0))
      }
    }
  }

  /// Expects that of the sessions nothing is left: in qemu, on this machine, among its processes.
  func expectNothingLeft(_ location: SourceLocation = #_sourceLocation) throws {
    let qemu = machine.monitor
    #expect(try qemu.execute("query-jobs") == [], sourceLocation: location)
    #expect(try qemu.execute("query-block-exports") == [], sourceLocation: location)
    let nodes = try qemu.execute("query-named-block-nodes", arguments: ["flat": true]).array ?? []
    let names = nodes.compactMap { $0["node-name"]?.string }
    #expect(names.filter { $0.hasPrefix("spillway") } == [], sourceLocation: location)
    #expect(nodes.allSatisfy { ($0["dirty-bitmaps"]?.array ?? []).isEmpty }, sourceLocation: location)
    // Somebody else may have qemu's NBD server.
    let address: JSONValue = ["type": "unix", "data": ["path": .string(directory.file("other.sock"))]]
    try qemu.execute("nbd-server-start", arguments: ["addr": address])
    try qemu.execute("nbd-server-stop")
    try expectNothingOnHost(location)
  }

  /// The part of `expectNothingLeft` for which qemu is not needed.
  func expectNothingOnHost(_ location: SourceLocation = #_sourceLocation) throws {
    let files = leavings.filter { !$0.hasSuffix("/lock") }
    #expect(files.count <= 1, "\(files)", sourceLocation: location)
    #expect(rings.filter { access($0, F_OK) == 0 } == [], sourceLocation: location)
    #expect(engines() == [], sourceLocation: location)
  }

  /// The processes that serve a journal for a session on this machine.
  func engines() -> [Int32] {
    let all = (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []
    return all.compactMap { Int32($0) }.filter { id in
      // A process that ends meanwhile is none, and one that has ended has no arguments.
      guard let words = FileManager.default.contents(atPath: "/proc/\(id)/cmdline") else { return false }
      let arguments = String(decoding: words, as: UTF8.self).split(separator: "\0")
      return arguments.count > 2 && arguments[1] == "engine" && arguments[2].hasPrefix(runtimeDirectory)
    }
  }
}
