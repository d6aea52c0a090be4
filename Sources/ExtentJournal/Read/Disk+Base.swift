internal import Bytes
internal import LMDB
internal import Threads

// What falls to the base. A piece outside the bitmap is looked up in the base generation under the rules of any look-up,
// there again if the base is incremental itself, and so on down to a full one. A base is sealed: it has everything,
// and never changes, so that it can be asked after the newer layer without missing anything.

extension Disk {
  /// How many generations may stand on one another.
  static let baseDepthMax = 64
  /// From how many on the newest one takes in what it shows of the others.
  static let baseDepthTarget = 8

  /// The pieces of `found`, a plan of `layer`, with what the base holds in the place of those that fall to it. Nil when it
  /// takes an index that can be believed, and there is none now. The caller has entered an epoch, and leaves it.
  ///
  /// The base is the one of the first look: if another has come in its place since, then what the old one held can still be
  /// found there, and what the new rows say is found as well.
  func resolved(
    _ found: Plan, of layer: Layer, through bases: Bases, depth: Int = 1
  ) throws(JournalError) -> [PlannedPiece]? {
    guard found.pieces.contains(where: { $0.source.fallsToBase }) else { return found.pieces }
    let base = try base(found, of: layer, depth: depth)
    if bases == .dropped, journal.ledger.lock.withLock({ !base.state.isDropped }) { return found.pieces }
    var result: [PlannedPiece] = []
    for piece in found.pieces {
      guard piece.source.fallsToBase else {
        result.append(piece)
        continue
      }
      guard let own = try lookUpBase(piece.range, in: base),
        let below = try resolved(own, of: base, through: bases, depth: depth + 1)
      else { return nil }
      result += below
    }
    return result
  }

  /// Where `range` is in `base` itself.
  private func lookUpBase(_ range: SectorRange, in base: Layer) throws(JournalError) -> Plan? {
    journal.ledger.hooks.reach(.baseWanted)
    var found = Plan(pieces: [], epoch: .covered, indexVersion: 0, isComplete: false, taint: nil)
    do throws(LMDBError) {
      guard try lookUp(range, in: base, &found) else { return nil }
    } catch {
      if error.isDamage { return nil }
      throw JournalError(error)
    }
    let title = journal.name(of: base.key)
    if let taint = found.taint {
      throw JournalError(.failed, "\(title), on which what is read here stands, is tainted: \(taint)")
    }
    if let gap = found.pieces.first(where: { $0.source == .absent }) {
      throw JournalError(
        .damaged,
        "bytes \(gap.range.bytes.start) to \(gap.range.bytes.end) of \(title) are missing, on which what is read here stands"
      )
    }
    return found
  }

  private func base(_ found: Plan, of layer: Layer, depth: Int) throws(JournalError) -> Layer {
    guard depth <= Self.baseDepthMax else {
      throw JournalError(
        .damaged, "more than \(Self.baseDepthMax) generations of \(name) stand on one another")
    }
    guard let base = found.base, base.key < layer.key else {
      throw JournalError(.damaged, "the base of \(journal.name(of: layer.key)) is not in the journal")
    }
    guard journal.ledger.hooks.has(.baseOfBaseRead) else { return base }
    return journal.ledger.lock.withLock { base.base.flatMap { journal.ledger.layers[$0] } } ?? base
  }
}
