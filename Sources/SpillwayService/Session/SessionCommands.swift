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
    /// How many clusters of each disk differ from the base that should not, of those that are looked at.
    static let compare = "session-compare"
    /// Let go of the live disks: their jobs are about to end.
    static let detach = "session-detach"
    /// All is copied: sum it up.
    static let preSeal = "session-pre-seal"
    /// The jobs have ended well: seal.
    static let seal = "session-seal"
    /// Whether the generations can still be sealed; the error says why not.
    static let check = "session-check"
    /// The session is over: the generations end that are not sealed. The answer names the disks whose generations are.
    static let end = "session-end"
  }

  /// Carries out `request`, if it is one of these. Nil when it is not.
  func run(_ request: AdminRequest) throws(ServiceError) -> JSONValue? {
    switch request.command {
    case Name.attach: try sources.begin()
    case Name.compare:
      return .object(try sources.differing().mapValues { .integer(Int64($0)) })
    case Name.detach: sources.end(try request.string("reason"))
    case Name.preSeal:
      for (disk, planned) in zip(disks, plan.disks) {
        try reportingJournalErrors { () throws(JournalError) in try disk.preSeal(job: planned.job) }
      }
    case Name.seal:
      for disk in disks { try reportingJournalErrors { () throws(JournalError) in try disk.seal() } }
    case Name.check:
      for disk in disks {
        if let reason = disk.taintReason { throw .failed("the backup of \(disk.name) is broken: \(reason)") }
      }
    case Name.end:
      let reason = try request.string("reason")
      for disk in disks where !disk.isClosed {
        try reportingJournalErrors { () throws(JournalError) in try disk.end(reason) }
      }
      return ["sealed": .array(disks.filter(\.isSealed).map { .string($0.name) })]
    default: return nil
    }
    return [:]
  }

  /// The disks that the answer to `end` names.
  static func names(in answer: JSONValue) -> Set<String> {
    Set((answer["sealed"]?.array ?? []).compactMap(\.string))
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
