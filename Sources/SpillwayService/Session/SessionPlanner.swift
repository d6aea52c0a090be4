internal import Bytes
internal import ExtentJournal
internal import FoundationEssentials
internal import Glibc
internal import Logging
internal import QEMUMonitor

/// Makes the plan of a session: what the user asked for, and what qemu and the journal say of it.
struct SessionPlanner {
  private let configuration: SessionConfiguration
  private let runtimeDirectory: String
  private let monitor: SharedMonitor

  init(_ configuration: SessionConfiguration, _ runtimeDirectory: String, _ monitor: SharedMonitor) {
    self.configuration = configuration
    self.runtimeDirectory = runtimeDirectory
    self.monitor = monitor
  }

  /// The plan. Nothing is changed yet.
  func plan() throws(ServiceError) -> SessionPlan {
    try requireCommands()
    let session = JournalUUID.random().description
    var disks: [SessionDisk] = []
    for (index, wanted) in configuration.disks.enumerated() {
      let node = try find(wanted.node)
      guard !disks.contains(where: { $0.node == node.name }) else {
        throw .usage("--disk \(wanted.node): the node \(node.name) is given twice")
      }
      guard node.byteCount > 0, node.byteCount % 512 == 0 else {
        throw .usage("--disk \(wanted.node): its size, \(node.byteCount) bytes, is no multiple of 512")
      }
      var disk = SessionDisk(
        name: wanted.name, node: node.name, byteCount: UInt64(node.byteCount),
        generation: generation(session), kind: kind, base: configuration.base, session: session,
        index: index)
      disk.keepsBitmaps = node.driver == "qcow2"
      try requireBitmaps(disk, node)
      disks.append(disk)
    }
    let journal: String
    if let given = configuration.journal {
      journal = given.path
    } else {
      journal = Self.temporaryJournal(session)
    }
    var plan = SessionPlan(
      session: session, purpose: configuration.purpose, monitor: configuration.monitor,
      journal: journal,
      isTemporary: configuration.journal == nil, runtimeDirectory: runtimeDirectory,
      foreignServer: configuration.nbdServer, disks: disks, whenFull: configuration.whenFull.rawValue,
      stallBudgetMilliseconds: configuration.stallBudgetMilliseconds,
      logLevel: configuration.logLevel.rawValue)
    plan.quotaBytes = configuration.quota?.byteCount
    plan.keptGenerations = configuration.keptGenerations
    plan.isReadOnce = configuration.isReadOnce
    plan.bytesPerSecond = configuration.bytesPerSecond
    return plan
  }

  private var kind: String {
    switch configuration.purpose {
    case .inspect: GenerationKind.cow.word
    case .backup: configuration.base == nil ? GenerationKind.full.word : GenerationKind.incremental.word
    }
  }

  /// A moment that is only looked at may share its second with another.
  private func generation(_ session: String) -> String {
    switch configuration.purpose {
    case .inspect: "\(configuration.generation)-\(session.prefix(8))"
    case .backup: configuration.generation
    }
  }

  private func find(_ name: String) throws(ServiceError) -> QEMUBlockNode {
    do throws(QMPError) {
      return try monitor.ask { monitor throws(QMPError) in try monitor.blockNode(name, self.monitor.schema) }
    } catch .noSuchNode(let name, let known) {
      throw .usage("--disk \(name): qemu has no such disk; it has \(known.joined(separator: ", "))")
    } catch {
      throw .failed("\(error)")
    }
  }

  private func requireCommands() throws(ServiceError) {
    let schema = monitor.schema
    guard schema.has("blockdev-backup"), schema.has("blockdev-add"), schema.has("transaction") else {
      throw .failed("this qemu is too old: it has no blockdev-backup")
    }
    guard configuration.purpose == .backup else { return }
    guard schema.has("blockdev-backup", argument: "auto-finalize"),
      configuration.base == nil || schema.has("blockdev-backup", argument: "bitmap-mode")
    else { throw .failed("this qemu is too old for backups: full ones need 2.12, incremental ones 4.2") }
  }

  /// An incremental needs the bitmap of its base, and none may have the name of its own.
  private func requireBitmaps(_ disk: SessionDisk, _ node: QEMUBlockNode) throws(ServiceError) {
    guard configuration.purpose == .backup else { return }
    if let base = disk.base, let bitmap = disk.baseBitmap {
      guard let found = node.bitmaps.first(where: { $0.name == bitmap }) else {
        throw .failed(
          "qemu has no bitmap \(bitmap) of \(node.name), so nobody knows what has changed since \(base); make a full backup"
        )
      }
      guard found.inconsistent != true else {
        throw .failed("the bitmap \(bitmap) of \(node.name) is inconsistent; make a full backup")
      }
    }
    guard !node.bitmaps.contains(where: { $0.name == disk.bitmap }) else {
      throw .failed(
        "\(node.name) has a bitmap \(disk.bitmap) already; choose another --name, or remove it (block-dirty-bitmap-remove)"
      )
    }
  }

  /// Where the journal of session `session` will be, which goes with it. It is made when the record tells of it.
  private static func temporaryJournal(_ session: String) -> String {
    let place = ProcessInfo.processInfo.environment["TMPDIR"].flatMap { $0.isEmpty ? nil : $0 } ?? "/var/tmp"
    return "\(place)/spillway-\(session)"
  }

  /// Makes the directory of a temporary journal. After the record is written: else a kill in between would leave it.
  static func makeTemporaryJournal(_ plan: SessionPlan) throws(ServiceError) {
    // SAFETY: the path is read during the call only.
    guard plan.isTemporary, unsafe mkdir(plan.journal, 0o700) != 0 else { return }
    throw .failed(
      "the temporary journal \(plan.journal) cannot be made (\(SystemError.text(errno))); name one with -j DIR"
    )
  }
}
