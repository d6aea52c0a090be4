internal import Bytes
internal import ExtentJournal
internal import QEMUMonitor

/// What the parent of a session asks of its engine, besides what any daemon can be asked.
final class SessionCommands: Sendable {
  private let plan: SessionPlan
  private let disks: [Disk]
  private let sources: SessionSources

  init(_ plan: SessionPlan, _ disks: [Disk], _ sources: SessionSources) {
    self.plan = plan
    self.disks = disks
    self.sources = sources
  }

  /// The names of the commands.
  enum Name {
    /// The jobs run and the live disks are exported: read them.
    static let attach = "session-attach"
    /// Let go of the live disks: their jobs are about to end.
    static let detach = "session-detach"
    /// All is copied: sum it up.
    static let preSeal = "session-pre-seal"
    /// The jobs have ended well: seal.
    static let seal = "session-seal"
    /// The session is over and nothing is sealed: the generations end.
    static let end = "session-end"
  }

  /// Carries out `request`, if it is one of these. Nil when it is not.
  func run(_ request: AdminRequest) throws(ServiceError) -> JSONValue? {
    switch request.command {
    case Name.attach: try sources.begin()
    case Name.detach: sources.end(try request.string("reason"))
    case Name.preSeal:
      for (disk, planned) in zip(disks, plan.disks) {
        try reportingJournalErrors { () throws(JournalError) in try disk.preSeal(job: planned.job) }
      }
    case Name.seal:
      for disk in disks { try reportingJournalErrors { () throws(JournalError) in try disk.seal() } }
    case Name.end:
      let reason = try request.string("reason")
      for disk in disks where !disk.isClosed {
        try reportingJournalErrors { () throws(JournalError) in try disk.end(reason) }
      }
    default: return nil
    }
    return [:]
  }

  /// The numbers of the generations of `disks`, for whoever has to mark them in the ring when the engine is gone.
  static func layers(of disks: [Disk]) -> String {
    disks.map { "\($0.key.disk.number):\($0.key.generation.number)" }.joined(separator: " ")
  }

  /// The generations that `text` names.
  static func parseLayers(_ text: String) -> [LayerKey] {
    text.split(separator: " ").compactMap { word in
      let numbers = word.split(separator: ":").compactMap { UInt32($0) }
      guard numbers.count == 2 else { return nil }
      return LayerKey(disk: DiskID(number: numbers[0]), generation: GenerationID(number: numbers[1]))
    }
  }
}
