package import Bytes
internal import LMDB
internal import Threads

// Reads a disk as it was at the end of a batch, by this process, which goes on writing it. (Other processes: JournalReader.)
// What is read was written before, so nothing is looked up in the ring or in memory, and nothing is waited for.

/// A disk as it was at the end of a batch; while the object is there the horizon does not pass it.
///
/// All methods may be called from any thread.
package final class PastDisk: Sendable {
  private let journal: Journal
  private let index: PastIndex
  private let body: DiskBody
  private let layer: LayerState

  fileprivate init(_ journal: Journal, _ index: PastIndex, _ body: DiskBody, _ layer: LayerState) {
    self.journal = journal
    self.index = index
    self.body = body
    self.layer = layer
  }

  deinit {
    journal.history.unpin(index.sequence)
    journal.pastIndexes.leave(index)
  }

  /// As it was given when the disk was added.
  package var name: String { body.name }
  /// Size in bytes, a multiple of 512.
  package var byteCount: UInt64 { body.byteCount }
  /// The last sequence of the batch.
  package var sequence: UInt64 { index.sequence }

  /// Reads `range` into `target` (same size). Released bytes throw `.notPermitted`; what had not arrived is zeroes on a
  /// device disk and throws `.failed` on a snapshot disk.
  package func read(_ range: ByteRange, into target: inout MutableRawSpan) throws(JournalError) -> [ReadRun] {
    precondition(UInt64(target.byteCount) == range.count, "the target has another size than the range")
    let ticket = journal.epochs.segments.enter()
    defer { journal.epochs.segments.leave(ticket) }
    var runs: [ReadRun] = []
    for piece in try pieces(of: range) {
      guard let part = piece.range.bytes.intersection(range) else { continue }
      let start = Int(part.start - range.start)
      var isZero = true
      switch piece.placement {
      case .frame(let address, let skip):
        isZero = false
        try journal.frames.withSectors(piece.range, of: piece.layer, in: address, from: skip) {
          (bytes) throws(JournalError) in
          let first = Int(part.start - piece.range.bytes.start)
          target.copy(bytes.extracting(first..<first + Int(part.count)), at: start)
        }
      case .release:
        throw JournalError(
          .notPermitted, "bytes \(part.start) to \(part.end) of \(name) were released before \(sequence)")
      case nil where !absentIsZero:
        throw JournalError(
          .failed, "byte \(part.start) of \(name) had not arrived at sequence \(sequence)")
      case .zero, .trim, .base, nil:
        target.zero(start..<start + Int(part.count))
      }
      if let last = runs.last, last.isZero == isZero {
        runs[runs.count - 1].range.end = part.end
      } else {
        runs.append(ReadRun(range: part, isZero: isZero))
      }
    }
    return runs
  }

  /// The allocation of `range` from its start, at most `limit` runs: as `Disk.status` of a reader.
  package func status(_ range: ByteRange, limit: Int) throws(JournalError) -> [StatusRun] {
    var runs: [StatusRun] = []
    var position = range.start
    while position < range.end, runs.count <= limit {
      let portion = ByteRange(start: position, end: min(range.end, position + Self.portionByteCount))
      for piece in try pieces(of: portion) {
        guard let part = piece.range.bytes.intersection(portion) else { continue }
        let isZero: Bool
        switch piece.placement {
        case .frame, .release: isZero = false
        case .zero, .trim, .base: isZero = true
        case nil: isZero = absentIsZero
        }
        if let last = runs.last, last.isZero == isZero {
          runs[runs.count - 1].byteCount += part.count
        } else {
          runs.append(StatusRun(byteCount: part.count, isHole: isZero))
        }
      }
      position = portion.end
    }
    return Array(runs.prefix(limit))
  }

  private static let portionByteCount: UInt64 = 256 << 20

  /// Whether what had not arrived is known to be zeroes.
  private var absentIsZero: Bool { body.mode == .device && layer.closure == nil }

  /// Where what covers `range` is. The caller is in an epoch, if it is to read it.
  private func pieces(of range: ByteRange) throws(JournalError) -> [ReaderPiece] {
    guard journal.history.isHeld(since: index.epoch) else {
      throw JournalError(
        .failed, "the index was built again, and sequence \(sequence) of \(name) cannot be read any more")
    }
    if let failure = journal.pastIndexes.failure(of: index) { throw failure }
    if let taint = layer.taint { throw JournalError(.failed, "\(name) was tainted at \(sequence): \(taint)") }
    var pieces: [ReaderPiece] = []
    try index.reader.forEachPiece(of: layer, in: range.coveringSectors) { pieces.append($0) }
    return pieces
  }
}

extension Journal {
  /// The disk `name` as it was at `sequence`. Throws `.usage`, with its neighbours, when that is not the end of a batch or lies
  /// before the horizon. Looks through the directories of all segments, unless somebody reads the same already.
  package func disk(_ name: String, at sequence: UInt64) throws(JournalError) -> PastDisk {
    let epoch = try history.pin(sequence)
    do throws(JournalError) {
      let index = try pastIndex(sequence, epoch)
      do throws(JournalError) {
        let (body, layer) = try index.reader.find(name)
        return PastDisk(self, index, body, layer)
      } catch {
        pastIndexes.leave(index)
        throw error
      }
    } catch {
      history.unpin(sequence)
      throw error
    }
  }

  private func pastIndex(_ sequence: UInt64, _ epoch: UInt64) throws(JournalError) -> PastIndex {
    if let known = pastIndexes.take(sequence, epoch: epoch) { return known }
    if ledger.lock.withLock({ ledger.indexed.sequence < sequence }) { try checkpoint() }
    return try upkeeper.inQuiet { () throws(JournalError) in
      if let known = pastIndexes.take(sequence, epoch: epoch) { return known }
      guard let tables = try indexer.inTurn({ (tables) throws(JournalError) in tables }) else {
        throw JournalError(.failed, "the index is being built again; try again when that is done")
      }
      try PointInTime.ends(store, tables, journal: superblockUUID).require(sequence)
      let scratch = try pastIndexes.makeScratch()
      let built = try PointInTime(
        store: store, journal: superblockUUID, current: tables, log: log,
        isCancelled: { [ledger] in ledger.lock.withLock { ledger.isClosing } }
      ).build(at: sequence, in: scratch.path)
      let index = PastIndex(
        sequence: sequence, epoch: epoch, reader: try JournalReader(of: self, built, scratch))
      pastIndexes.add(index)
      return index
    }
  }

  /// The points in time that could be read at the last commit of the index. Throws `.failed` while it is being built again.
  package func batchEnds() throws(JournalError) -> BatchEnds {
    let ends = try indexer.inTurn { (tables) throws(JournalError) in
      try PointInTime.ends(store, tables, journal: superblockUUID)
    }
    guard let ends else {
      throw JournalError(.failed, "the index is being built again; try again when that is done")
    }
    return ends
  }
}
