internal import Bytes

// How a generation takes in what it shows of its base, by reference: rows of the index are copied, frames stay where they
// are and keep the generation that wrote them in their headers.
//
// A drop does so to every generation that stands on the one that is dropped, a merge to one generation whose chain is
// too long. Both say in their bodies who takes in from whom, so that they mean the same whenever they are read: in a
// rebuild, and once more after a commit that was not finished.
//
// Why the order of records within a commit does not matter: who takes in is closed, so that nothing of it follows but
// releases, and what it holds itself wins. That also keeps its seal true: what it took in has other owners in the headers.

/// The body of a drop record (of the generation that goes) or a merge record (of the one that takes in).
struct MergeBody: Sendable, Equatable {
  /// The generation that is taken in.
  var from: UInt32
  /// What those that took it in stand on from then on; 0: nothing.
  var newBase: UInt32
  /// Those that take it in, ascending.
  var dependents: [UInt32]

  var encoded: [UInt8] {
    var bytes: [UInt8] = []
    bytes.appendBigEndian(from)
    bytes.appendBigEndian(newBase)
    for dependent in dependents { bytes.appendBigEndian(dependent) }
    return bytes
  }

  init(from: UInt32, newBase: UInt32, dependents: [UInt32]) {
    self.from = from
    self.newBase = newBase
    self.dependents = dependents
  }

  /// Nil when `record` is neither a drop nor a merge, or its body is none.
  init?(_ record: Record) {
    guard record.kind == .drop || record.kind == .merge,
      let from = record.body.bigEndian(at: 0, as: UInt32.self),
      let newBase = record.body.bigEndian(at: 4, as: UInt32.self), record.body.count % 4 == 0
    else { return nil }
    self.from = from
    self.newBase = newBase
    dependents = stride(from: 8, to: record.body.count, by: 4).compactMap {
      record.body.bigEndian(at: $0, as: UInt32.self)
    }
  }
}

extension LayerState {
  /// Those of `states` whose records a rebuild needs all: what has taken something in, and what was dropped below it.
  static func merging(_ states: [LayerState]) -> Set<LayerKey> {
    let merged = states.filter { $0.hasMerged && !$0.isDropped }.map(\.key)
    let dropped = states.filter { state in
      state.isDropped && merged.contains { $0.disk == state.key.disk && $0 > state.key }
    }
    return Set(merged + dropped.map(\.key))
  }

  /// It has taken in what it showed of its base, and stands on `base` (0: nothing) from now on.
  mutating func rebase(to base: UInt32) {
    self.base = base
    hasMerged = true
  }

  /// Nobody sees it from now on. Its number is never used again; its name may be.
  mutating func drop() {
    isDropped = true
    isComplete = true
    name = ""
    tag = ""
    preSeal = nil
    seal = nil
    end = "it was dropped"
    seenJob = nil
    loweredJob = nil
  }
}
