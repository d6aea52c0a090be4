internal import Bytes
internal import ExtentJournal
internal import NBDServer
internal import NBDProtocol

/// A metadata context of a view.
enum ViewContext {
  /// `base:allocation`: HOLE and ZERO (3) for what is known to be zeroes, data (0) for all else.
  case allocation
  /// `x-spillway:state`: the number of a `SectorState`.
  case state
  /// `qemu:dirty-bitmap:GENERATION`: 1 for what that generation changed.
  case changes(of: String)

  private static let stateName = "x-spillway:state"
  private static let changesPrefix = "qemu:dirty-bitmap:"

  /// The context `name`, one of `names(for:in:)`.
  init(_ name: String) {
    if name == Self.stateName {
      self = .state
    } else if name.hasPrefix(Self.changesPrefix) {
      self = .changes(of: String(name.dropFirst(Self.changesPrefix.count)))
    } else {
      self = .allocation
    }
  }

  /// The contexts of a view of `disk`: its own generation and every older one has its changes, so that a tool can fetch
  /// what came after any of them.
  static func names(for disk: Disk, in journal: Journal) -> [String] {
    let older = journal.generations.filter {
      $0.name == disk.name && $0.generationNumber <= disk.generationNumber
    }
    return [ExportDescription.allocationContext, stateName]
      + older.compactMap(\.generationName).map { changesPrefix + $0 }
  }

  /// What the context says of `range`.
  func extents(
    of disk: Disk, in journal: Journal, _ range: ByteRange, limit: Int
  ) throws(JournalError) -> [BlockExtent] {
    switch self {
    case .allocation:
      return try disk.status(range, asWriter: false, limit: limit).map { BlockExtent($0) }
    case .state:
      return try disk.states(range, limit: limit).map {
        BlockExtent(byteCount: $0.byteCount, flags: $0.value.rawValue)
      }
    case .changes(let name):
      let generation = try journal.generation(of: disk.name, named: name)
      return try generation.changes(range, limit: limit).map {
        BlockExtent(byteCount: $0.byteCount, flags: $0.value ? 1 : 0)
      }
    }
  }
}

extension BlockExtent {
  /// The flags of `base:allocation`: bit 0 HOLE, bit 1 ZERO.
  init(_ run: StatusRun) {
    self.init(byteCount: run.byteCount, flags: (run.isHole ? 1 : 0) | (run.isZero ? 2 : 0))
  }
}
