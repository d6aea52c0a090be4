internal import BlockFile
internal import Extents
internal import LMDB
internal import Threads

/// Fills empty tables from the segments, in the order in which they were written.
struct IndexRebuild {
  let store: SegmentStore
  let journal: JournalUUID
  /// Where the segments end for the new tables; durable.
  let target: AppliedPosition
  /// The tables are to say what there was at this sequence, the end of a batch.
  var cut: UInt64 = .max
  /// See `SegmentScanner.neededFrames`.
  var neededFrames: ((UInt64) throws(JournalError) -> Set<UInt64>)?
  let log: JournalLog
  /// How often progress is logged, in nanoseconds.
  let progressNanoseconds: UInt64
  /// Whether to give up.
  let isCancelled: () -> Bool

  /// Extents that are collected in memory before they are committed.
  private static let extentsMax = 200_000

  /// Thrown into the scan to end it where it should; never seen outside.
  private static let reached = JournalError(.closing, "the end was reached")

  func run(into tables: IndexTables) throws(JournalError) {
    guard target.batch > 0 else { return }
    var collected = Collected()
    var progress = try Progress(self)
    var isDone = false
    var loss: SegmentDamage?
    let scanner = SegmentScanner(
      store: store, knownDurable: target.batch, cut: cut, neededFrames: neededFrames, isSameBoot: true
    ) { damage in
      if damage.isUnknown { loss = loss ?? damage }
    }
    do throws(JournalError) {
      let segments = progress.segments.map(\.number)
      _ = try scanner.scan(after: AppliedPosition(), segments: segments) { batch throws(JournalError) in
        if isCancelled() { throw .closing }
        // What the old tables knew of it nobody knows any more: they stay, and reads that need them fail.
        if let loss { throw JournalError(.damaged, "\(loss.sentence) beyond recognition") }
        collected.add(batch)
        isDone = batch.end.batch >= target.batch || batch.end.sequence >= cut
        if isDone || collected.extentCount >= Self.extentsMax { try commit(&collected, into: tables) }
        progress.report(batch.end, log)
        if isDone { throw Self.reached }
      }
    } catch {
      guard isDone, error.kind == .closing else { throw error }
    }
    guard isDone else {
      throw JournalError(
        .damaged,
        "segments/\(SegmentStore.name(target.segment)) cannot be read to batch \(target.batch), offset \(target.offset); restore it from a copy of the journal"
      )
    }
  }

  private func commit(_ collected: inout Collected, into tables: IndexTables) throws(JournalError) {
    do throws(LMDBError) {
      try tables.commit(collected.delta, journal: journal)
    } catch {
      throw JournalError(error)
    }
    collected = Collected()
  }

  /// What was read and is not in the tables yet.
  private struct Collected {
    var maps: [LayerKey: ExtentMap<Placement>] = [:]
    var records: [Record] = []
    var end = AppliedPosition()
    var extentCount = 0

    mutating func add(_ batch: PublishedBatch) {
      for (layer, range, placement) in batch.extents {
        maps[layer, default: ExtentMap()].insert(range, placement)
      }
      records += batch.records
      end = batch.end
      extentCount += batch.extents.count
    }

    var delta: IndexDelta {
      IndexDelta(
        end: end, records: records, extents: maps.sorted { $0.key < $1.key }.map { ($0.key, $0.value) })
    }
  }

  /// How far the scan is, in bytes of segments.
  private struct Progress {
    var segments: [(number: UInt64, before: UInt64)] = []
    private var total: UInt64 = 0
    private var index = 0
    private var nextReport: UInt64
    private let every: UInt64

    init(_ rebuild: IndexRebuild) throws(JournalError) {
      every = rebuild.progressNanoseconds
      nextReport = MonotonicClock.nanoseconds() + every
      do throws(FileError) {
        for number in try rebuild.store.list() where number <= rebuild.target.segment {
          segments.append((number, total))
          total += try rebuild.store.files.allocatedByteCount(SegmentStore.name(number))
        }
      } catch {
        throw JournalError(error)
      }
    }

    mutating func report(_ end: AppliedPosition, _ log: JournalLog) {
      let now = MonotonicClock.nanoseconds()
      guard now >= nextReport else { return }
      nextReport = now + every
      while index + 1 < segments.count, segments[index].number < end.segment { index += 1 }
      let done = min(segments[index].before + end.offset, total)
      log(.info, "building the index again: \(done * 100 / max(total, 1)) % of \(segments.count) segments")
    }
  }
}
