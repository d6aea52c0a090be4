internal import Bytes
internal import LMDB

// Whether what the index says of the journal is there: every frame that it points to is read and its checksums compared,
// every piece outside a bitmap has a base, every seal's sums are computed again from what is stored, and what the index
// counts as live is counted again. (Of a generation that was released in part after its seal only the numbers of bytes
// can be compared.)
//
// Reads each generation once, in the order of its disk. Nothing stops at the first flaw: what can be read is verified.

/// One thing that is not as it should be.
package struct VerificationFlaw: Codable, Sendable, Equatable {
  /// The disk; nil when it concerns the journal as a whole.
  package var disk: String?
  /// The generation: its name, or its number if it has none.
  package var generation: String?
  /// Where on the disk, in bytes; nil when it concerns the generation as a whole.
  package var offset: UInt64?
  /// How many bytes of it.
  package var length: UInt64?
  /// All of it in one sentence without a full stop.
  package var message: String
}

/// What a verification found.
package struct VerificationReport: Codable, Sendable, Equatable {
  /// Generations that were looked through.
  package var generations: UInt64 = 0
  /// Seals whose sums were computed again.
  package var seals: UInt64 = 0
  /// Bytes of disks that were read and compared with their checksums.
  package var dataBytes: UInt64 = 0
  /// Bytes of disks that were released: nobody can say what they were.
  package var releasedBytes: UInt64 = 0
  /// Flaws, by disk and generation; the first ones when there are very many.
  package var flaws: [VerificationFlaw] = []
  /// How many flaws there are in all.
  package var flawCount: UInt64 = 0

  /// Of nothing.
  package init() {}

  fileprivate mutating func add(_ flaw: VerificationFlaw) {
    flawCount += 1
    if flaws.count < Self.flawsMax { flaws.append(flaw) }
  }

  private static let flawsMax = 10_000
}

/// Verifies a journal that another process may serve.
package enum Verification {
  /// Verifies every generation. `progress` is called now and then with bytes of the disks.
  package static func run(
    on reader: JournalReader, progress: (_ done: UInt64, _ total: UInt64) -> Void
  ) throws(JournalError) -> VerificationReport {
    var report = VerificationReport()
    if let loss = try reader.index.loss() {
      report.add(VerificationFlaw(message: "the journal has lost something nobody can name: \(loss)"))
    }
    let layers = reader.catalog.layers.filter { !$0.isDropped }.sorted { $0.key < $1.key }
    let total = layers.reduce(0) { $0 + (reader.catalog.disks[$1.key.disk]?.byteCount ?? 0) }
    var before: UInt64 = 0
    for layer in layers {
      guard let disk = reader.catalog.disks[layer.key.disk] else {
        report.add(
          VerificationFlaw(
            disk: "number \(layer.key.disk.number)", generation: layer.title,
            message: "the generation belongs to a disk that the journal does not have"))
        continue
      }
      try verify(layer, of: disk, reader, &report) { progress(before + $0, total) }
      report.generations += 1
      before += disk.byteCount
    }
    do throws(LMDBError) {
      if let flaw = try reader.index.livenessFlaw() {
        report.add(VerificationFlaw(message: "the space account of the index is wrong: \(flaw)"))
      }
    } catch {
      report.add(VerificationFlaw(message: "the space account of the index cannot be read: \(error)"))
    }
    return report
  }

  private static func verify(
    _ layer: LayerState, of disk: DiskBody, _ reader: JournalReader, _ report: inout VerificationReport,
    progress: (UInt64) -> Void
  ) throws(JournalError) {
    var digest = SealDigest()
    var isWhole = true
    func flaw(_ range: SectorRange?, _ message: String) {
      isWhole = false
      report.add(
        VerificationFlaw(
          disk: disk.name, generation: layer.title, offset: range?.bytes.start, length: range?.byteCount,
          message: message))
    }
    let whole = SectorRange(start: 0, count: disk.byteCount / Sector.byteCount)
    try reader.forEachOwnPiece(of: layer, in: whole) { (piece) throws(JournalError) in
      progress(piece.range.bytes.end)
      switch piece.placement {
      case nil:
        if layer.seal != nil || layer.preSeal != nil {
          flaw(piece.range, "nothing is there, though the generation is sealed")
        }
      case .zero, .trim: digest.addZeroes(piece.range)
      case .release:
        digest.addReleased(piece.range)
        report.releasedBytes += piece.range.byteCount
      case .base:
        digest.addBase(piece.range)
        do throws(JournalError) {
          try reader.forEachPiece(of: layer, in: piece.range) { _ in }
        } catch {
          flaw(piece.range, error.message)
        }
      case .frame(let address, let skip):
        do throws(JournalError) {
          try reader.frames.withOwnedSectors(piece.range, of: layer.key, in: address, from: skip) {
            (bytes, owner) throws(JournalError) in
            // What it took in from its base was the base's when it was sealed.
            if owner == layer.key { digest.addData(piece.range, bytes) } else { digest.addBase(piece.range) }
          }
          report.dataBytes += piece.range.byteCount
        } catch {
          flaw(piece.range, error.message)
        }
      }
    }
    guard let seal = layer.seal ?? layer.preSeal else { return }
    report.seals += 1
    guard let record = SealRecord(seal) else { return flaw(nil, "the seal cannot be read") }
    // What could not be read is said already.
    guard isWhole else { return }
    let found = digest.finish()
    let isRight =
      layer.hasMerged
      ? record.summary.agreesAfterMerge(with: found)
      : record.summary.agrees(with: found) || record.summary.mayHaveShrunk(to: found)
    if record.byteCount != disk.byteCount || !isRight {
      flaw(nil, "what is stored is not what was sealed: the sums differ")
    }
  }
}
