internal import Bytes
internal import LMDB

// Asks some random rows of the index whether they tell the truth: the frame that an entry points to is there, its header
// holds, and it lists that disk, generation and range.
//
// A row that lies is an index error: the tables are abandoned. A frame that is damaged is not, since new tables would
// point there again: it is logged, once. When nothing can be read at the place, the items of the segment before it tell the
// two apart: they end where the next one begins.
final class IndexAudit {
  private let store: SegmentStore
  /// Where the segments end that were written.
  private let written: () -> AppliedPosition
  private let log: JournalLog
  /// Damaged frames that were logged, at most `reportedMax`.
  private var reported: Set<FrameAddress> = []

  private let rowsPerRun: Int
  private static let framesPerRow = 2
  private static let reportedMax = 1000

  /// A layer whose rows can be asked.
  struct Subject {
    var layer: LayerKey
    /// Of the disk.
    var name: String
    var byteCount: UInt64
  }

  init(
    store: SegmentStore, rowsPerRun: Int, written: @escaping () -> AppliedPosition, log: @escaping JournalLog
  ) {
    self.rowsPerRun = rowsPerRun
    self.written = written
    self.store = store
    self.log = log
  }

  /// Asks a handful of rows. Returns what is wrong with the index, if something is.
  func run(_ tables: IndexTables, _ subjects: [Subject]) -> LMDBError? {
    do throws(LMDBError) {
      for _ in 0..<rowsPerRun {
        guard let subject = subjects.randomElement() else { continue }
        let regions = Region.indices(SectorRange(start: 0, count: subject.byteCount / Sector.byteCount))
        var found = try tables.sample(subject.layer, from: .random(in: regions))
        if found == nil { found = try tables.sample(subject.layer, from: 0) }
        guard let (region, entries) = found else { continue }
        for entry in entries.shuffled().prefix(Self.framesPerRow) {
          let base = region * Region.sectorCount
          let range = SectorRange(start: base + UInt64(entry.start), count: UInt64(entry.count))
          if let lie = try ask(tables, subject, range, entry.placement) { return lie }
        }
      }
      return nil
    } catch {
      return error.isDamage ? error : nil
    }
  }

  private func ask(
    _ tables: IndexTables, _ subject: Subject, _ range: SectorRange, _ placement: Placement
  ) throws(LMDBError) -> LMDBError? {
    guard case .frame(let address, let skip) = placement else { return nil }
    let check = FrameCheck(store: store, written: written())
    switch check.verdict(address, skip: skip, holding: range, of: subject.layer) {
    case .right: return nil
    case .lie:
      return try check.lie(of: tables, in: subject.layer, range, address, skip: skip, disk: subject.name)
    case .damage(let why):
      if reported.count < Self.reportedMax, reported.insert(address).inserted {
        let place = "offset \(address.offset) of segments/\(SegmentStore.name(address.segment))"
        log(
          .error,
          "bytes \(range.bytes.start) to \(range.bytes.end) of \(subject.name) are damaged: the frame at \(place) \(why)"
        )
      }
      return nil
    }
  }
}

extension IndexTables {
  /// The region of the first row from `region` on that counts, and the row's entries; for a region that is split, those
  /// of one of its parts. Nil when there is none, or only far behind.
  fileprivate func sample(
    _ layer: LayerKey, from region: UInt64
  ) throws(LMDBError) -> (region: UInt64, entries: [IndexEntry])? {
    try withReader { reader throws(LMDBError) in
      var at = region
      for _ in 0..<64 {
        var next: UInt64?
        try reader.scan(map, from: RegionRow.key(layer, region: at, part: 0)) { key, _ in
          if let (rowLayer, region, _) = RegionRow.parse(key), rowLayer == layer { next = region }
          return false
        }
        guard let next else { return nil }
        if let over = try rangeRow(reader, layer, endingBehind: next), over.regions.contains(next) {
          at = over.regions.upperBound
          continue
        }
        return (next, try entries(reader, layer, next))
      }
      return nil
    }
  }

  private func entries(
    _ reader: LMDBReadTransaction, _ layer: LayerKey, _ region: UInt64
  ) throws(LMDBError) -> [IndexEntry] {
    for part in [0, UInt8.random(in: 1...UInt8(Region.partCount))] {
      guard let value = try reader.get(map, RegionRow.key(layer, region: region, part: part)) else {
        continue
      }
      // SAFETY: bytes of UInt8 have no padding.
      if unsafe RegionRow.isSplit(value.span.bytes) { continue }
      return try decoded(value)
    }
    return []
  }
}
