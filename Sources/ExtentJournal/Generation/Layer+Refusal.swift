internal import Bytes

// What a generation takes, asked under the commit lock, where a record gets its sequence: so nothing can slip behind a
// seal, and no taint can slip between a seal's check and its record.
extension Layer {
  /// Why a record of `kind` with `body` must not be; nil when it may. The caller holds the ledger's lock.
  func refusal(of kind: RecordKind, _ body: [UInt8]) -> JournalError? {
    switch kind {
    // What is sealed may be released all the same: nobody needs it any more.
    case .release: return state.isDropped ? JournalError(.notPermitted, "the generation was dropped") : nil
    case .disk, .begin, .complete, .taint, .source, .speed, .drop, .merge, .removed: return nil
    case .data, .zero, .trim, .base, .bitmapWhole, .preSeal, .seal, .end: break
    }
    if state.seal != nil {
      return JournalError(.notPermitted, "generation \(state.title) is sealed and takes no more writes")
    }
    if let reason = state.end {
      return JournalError(
        .notPermitted, "generation \(state.title) was ended and takes no more writes: \(reason)")
    }
    switch kind {
    case .data, .zero, .trim, .base, .bitmapWhole:
      return successor.map { _ in
        JournalError(.notPermitted, "generation \(state.title) is being sealed and takes no more writes")
      }
    case .preSeal, .seal:
      return state.taint.map {
        JournalError(.failed, "generation \(state.title) is tainted and cannot be sealed: \($0)")
      }
    case .end where hasArrivals && body == Array(LayerState.unused.utf8):
      return JournalError(.usage, "generation \(state.title) is open; seal it first")
    default: return nil
    }
  }

  /// Whether acknowledged writes of it may have been in a spool that is lost.
  var canLoseWrites: Bool { !state.isClosed && state.preSeal == nil }
}
