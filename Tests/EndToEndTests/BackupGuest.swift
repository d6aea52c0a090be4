import Foundation
import Peers
import QEMUMonitor
import TestKit
import Testing

/// A machine whose disks `spillway backup` keeps, and what each disk held at each moment that a test remembers.
///
/// The test is the guest: what it writes goes to the machine and into a model of the disk, a raw file beside it.
final class BackupGuest {
  let directory: TemporaryDirectory
  /// The journal as the tests see it, and as the program does, which `launcher` starts.
  let journal: String
  private let ownJournal: String
  private let launcher: [String]
  let byteCount: UInt64
  private(set) var machine: QEMUMachine
  private let disks: [QEMUMachine.Disk]
  private let place: String
  private var starts = 0

  /// Names of the disks in the journal, in the order of the machine's.
  let names: [String]

  init(
    _ names: [String] = ["root"], _ format: QEMUMachine.Disk.Format = .raw, byteCount: UInt64 = 8 << 20,
    seed: UInt64, in directory: TemporaryDirectory, filesystem: PrivateFilesystem? = nil
  ) throws {
    self.directory = directory
    self.names = names
    self.byteCount = byteCount
    ownJournal = filesystem.map { "\($0.mount)/journal" } ?? directory.file("journal")
    journal = filesystem.map { "\($0.visible)/journal" } ?? ownJournal
    launcher = try filesystem?.launcher() ?? []
    place = directory.file("run")
    var disks: [QEMUMachine.Disk] = []
    for (index, name) in names.enumerated() {
      let model = directory.file("\(name).model")
      try PatternedImage(at: model, byteCount: byteCount, seed: seed + UInt64(index))
      let image = directory.file("\(name).\(format.rawValue)")
      try Program.qemuImg.run(["convert", "-f", "raw", "-O", format.rawValue, model, image])
      disks.append(.init(image, format))
    }
    self.disks = disks
    machine = try QEMUMachine(disks, in: directory, name: "qemu0")
  }

  /// Ends the machine in good order, or at once, and starts it again on the same disks.
  func restart(killing: Bool = false) throws {
    if killing {
      machine.kill()
    } else {
      try machine.monitor.execute("quit")
      try machine.child.finish(within: .seconds(60)).succeeded()
    }
    // The path of the monitor stays: the next session must find what the last one left.
    for name in ["qemu0-product.sock", "qemu0-test.sock"] { unlink(directory.file(name)) }
    machine = try QEMUMachine(disks, in: directory, name: "qemu0")
  }

  /// The path of the model of disk `index`, which is what the disk holds now.
  func model(_ index: Int = 0) -> String { directory.file("\(names[index]).model") }

  /// Has the guest write, and waits for that.
  func write(_ pattern: UInt8, at offset: UInt64, _ count: UInt64, disk: Int = 0) throws {
    try machine.write(pattern, at: offset, count, disk: disk)
    try note(pattern, at: offset, count, disk: disk)
  }

  /// The guest's write of these bytes is on the disk.
  func note(_ pattern: UInt8, at offset: UInt64, _ count: UInt64, disk: Int = 0) throws {
    let file = try #require(FileHandle(forUpdatingAtPath: model(disk)))
    try file.seek(toOffset: offset)
    file.write(Data(repeating: pattern, count: Int(count)))
    try file.close()
  }

  /// Has the guest write here and there.
  func scribble(_ random: inout SeededGenerator, count: Int = 4) throws {
    for disk in names.indices {
      for _ in 0..<count {
        let sectors = UInt64.random(in: 1...300, using: &random)
        let start = UInt64.random(in: 0...byteCount / 512 - sectors, using: &random)
        try write(UInt8.random(in: 1...255, using: &random), at: start * 512, sectors * 512, disk: disk)
      }
    }
  }

  /// Remembers what the disks hold now: it is what generation `name` has to hold.
  func remember(_ name: String) throws {
    for index in names.indices {
      try? FileManager.default.removeItem(atPath: moment(name, index))
      try FileManager.default.copyItem(atPath: model(index), toPath: moment(name, index))
    }
  }

  /// The file that holds what generation `name` of disk `index` has to hold.
  func moment(_ name: String, _ index: Int = 0) -> String { directory.file("\(names[index]).at.\(name)") }

  // MARK: - The program

  /// Starts `spillway backup` of all disks with more arguments.
  func start(_ more: [String], environment extra: [String: String] = [:]) throws -> ChildProcess {
    let disks = names.indices.flatMap { ["--disk", "\(names[$0])=\(machine.node($0))"] }
    return try startAlone(["-j", ownJournal] + disks + more, environment: extra)
  }

  /// Starts `spillway backup` of this machine; all else is in `arguments`.
  func startAlone(_ arguments: [String], environment extra: [String: String] = [:]) throws -> ChildProcess {
    let words =
      try launcher + [Spillway.path(), "backup", "--qmp", machine.monitorSocket] + arguments
    return try ChildProcess(
      words[0], Array(words[1...]), environment: ["SPILLWAY_RUNTIME_DIR": place].merging(extra) { $1 })
  }

  /// Runs it to its end.
  func run(_ more: String...) throws -> FinishedProcess {
    try start(more).finish(within: .seconds(120))
  }

  /// Keeps a moment as generation `name`, which must succeed and say nothing else.
  func keep(
    _ name: String, on base: String? = nil, _ location: SourceLocation = #_sourceLocation
  ) throws {
    try remember(name)
    let arguments = ["--name", name] + (base.map { ["--incremental", $0] } ?? [])
    let finished = try start(arguments).finish(within: .seconds(120)).succeeded()
    let kind = base == nil ? "full" : "incremental"
    #expect(
      finished.errorLines == names.map { "spillway: sealed: \($0)@\(name) (\(kind))" }
        && finished.output.isEmpty,
      sourceLocation: location)
  }

  /// The runtime directory of its sessions on this machine.
  func runtime() throws -> String {
    let found = try FileManager.default.contentsOfDirectory(atPath: place)
    try #require(found.count == 1)
    return "\(place)/\(found[0])"
  }

  /// Where generation `name` of disk `index` can be read while its backup runs.
  func view(_ name: String, _ index: Int = 0) throws -> String {
    "nbd+unix:///\(names[index])@\(name)?socket=\(try runtime())/view.sock"
  }

  /// Removes what the program remembers of sessions.
  func forgetSessions() throws { try FileManager.default.removeItem(atPath: place) }

  /// Waits until no process of a session is left.
  func waitForEnd() throws {
    try ChildProcess("/usr/bin/flock", ["--timeout", "60", "\(try runtime())/lock", "/bin/true"])
      .finish(within: .seconds(90)).succeeded()
  }
}

/// A small filesystem in a mount namespace of its own, which lives as long as this.
final class PrivateFilesystem {
  /// Where it is for those inside, and for those outside.
  let mount: String
  let visible: String
  private let holder: ChildProcess

  /// One of `mebibytes`, empty.
  init(mebibytes: Int, in directory: TemporaryDirectory) throws {
    mount = directory.file("small")
    try FileManager.default.createDirectory(atPath: mount, withIntermediateDirectories: true)
    let words =
      try FullDisk.tmpfs.launcher(mount, mebibytes: mebibytes, left: mebibytes)
      + ["/bin/sh", "-c", "echo mounted >&2; exec sleep infinity"]
    holder = try ChildProcess(words[0], Array(words[1...]))
    visible = "/proc/\(holder.processID)/root\(mount)"
    try holder.waitForErrorLine(containing: "mounted", within: .seconds(30))
  }

  deinit { holder.kill() }

  /// What starts a program inside.
  func launcher() throws -> [String] {
    let asRoot = geteuid() == 0 ? [] : ["--user", "--preserve-credentials"]
    return ["/usr/bin/nsenter", "--target", "\(holder.processID)", "--mount"] + asRoot
  }

  /// Fills it but for `left` bytes; `empty` makes room again.
  func fill(leaving left: Int) throws {
    let attributes = try FileManager.default.attributesOfFileSystem(forPath: visible)
    let free = try #require(attributes[.systemFreeSize] as? Int)
    try #require(free > left)
    try Data(count: free - left).write(to: URL(fileURLWithPath: "\(visible)/ballast"))
  }

  func empty() throws { try FileManager.default.removeItem(atPath: "\(visible)/ballast") }
}
