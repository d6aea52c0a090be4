internal import BlockFile
package import Bytes
internal import Glibc
internal import LMDB
internal import Threads

/// A journal read by a process that does not own it, as its index was when the reader was opened.
///
/// Works beside a daemon (after its `checkpoint`) and on a closed journal. Changes nothing in the segments; LMDB keeps
/// its reader table in the index's lock file.
/// For one thread at a time.
package final class JournalReader: Sendable {
  let index: IndexTables
  let frames: FrameReader
  private let directory: JournalDirectory
  private let superblock: JournalSuperblock
  let store: SegmentStore
  private let applied: AppliedPosition
  private let pin: ReaderPin?
  /// Of a point in time: the reader of the present, which keeps what is read from going, and where the index lies.
  private let present: JournalReader?

  /// Whether it reads a point in time, not the present.
  package var isOfThePast: Bool { present != nil }

  private let scratch: ScratchDirectory?
  let catalog: (disks: [DiskID: DiskBody], layers: [LayerState])

  /// Opens the journal in `directory`. Throws `.usage` when there is none.
  package static func open(_ directory: String) throws(JournalError) -> JournalReader {
    let place = JournalDirectory(path: directory)
    return try JournalReader(place, superblock(place))
  }

  private static func superblock(_ place: JournalDirectory) throws(JournalError) -> JournalSuperblock {
    guard let found = try place.readSuperblock() else {
      throw JournalError(.usage, "there is no journal in \(place.path)")
    }
    return found
  }

  private init(_ directory: JournalDirectory, _ superblock: JournalSuperblock) throws(JournalError) {
    self.directory = directory
    self.superblock = superblock
    // Before the snapshot: what it names stays until the reader goes.
    pin = ReaderPin(reading: directory.path)
    (present, scratch) = (nil, nil)
    index = try Self.openIndex(directory)
    applied = try index.applied(journal: superblock.journal) ?? AppliedPosition()
    catalog = try index.catalog()
    store = SegmentStore(files: POSIXDirectory(path: directory.segmentsPath), journal: superblock.journal)
    frames = FrameReader(store: store)
  }

  /// A reader of what there was at `sequence`, for the same thread. Throws `.usage`, with its neighbours, when that is not the end
  /// of a batch or lies before the horizon. Builds an index for it, of a size like that of the journal's, below TMPDIR, from
  /// where it goes with the reader.
  package func at(sequence: UInt64, log: @escaping JournalLog) throws(JournalError) -> JournalReader {
    try batchEnds().require(sequence)
    return try JournalReader(self, at: sequence, ScratchDirectory(in: ScratchDirectory.usualParent), log)
  }

  private init(
    _ present: JournalReader, at sequence: UInt64, _ scratch: ScratchDirectory, _ log: @escaping JournalLog
  ) throws(JournalError) {
    directory = present.directory
    superblock = present.superblock
    pin = nil
    self.present = present
    self.scratch = scratch
    index = try PointInTime(
      store: present.store, journal: present.superblock.journal, current: present.index, log: log,
      isCancelled: { false }
    ).build(at: sequence, in: scratch.path)
    applied = try index.applied(journal: superblock.journal) ?? AppliedPosition()
    catalog = try index.catalog()
    store = present.store
    frames = present.frames
  }

  /// Reads `index`, of a point in time, for the process that owns the journal: from any thread.
  init(
    of journal: Journal, _ index: IndexTables, _ scratch: ScratchDirectory
  ) throws(JournalError) {
    (directory, superblock) = journal.identity
    pin = nil
    present = nil
    self.scratch = scratch
    self.index = index
    applied = try index.applied(journal: superblock.journal) ?? AppliedPosition()
    catalog = try index.catalog()
    store = journal.store
    frames = journal.frames
  }

  /// The points in time that can be read.
  package func batchEnds() throws(JournalError) -> BatchEnds {
    try PointInTime.ends(store, index, journal: superblock.journal)
  }

  /// Opens the index and takes the snapshot to read from. While the owner commits in slices the rows are ahead of the
  /// applied position, so a reader waits for the last slice; and it waits for an owner that builds the index anew. A
  /// crashed owner's slices are as good as they will get.
  private static func openIndex(_ directory: JournalDirectory) throws(JournalError) -> IndexTables {
    let deadline = MonotonicClock.nanoseconds() + commitNanosecondsMax
    while true {
      let isServed = directory.isLocked()
      let place = directory.index.identity
      var why = LMDBError.corrupted("it stays in the middle of a commit")
      do throws(LMDBError) {
        if directory.index.isAbandoned { throw .corrupted("it was abandoned") }
        let tables = try IndexTables(path: directory.indexPath, readOnly: true)
        // Another index may have taken its place while it was opened: then lock and data could be of two.
        if try tables.pin(evenAhead: !isServed), place == directory.index.identity { return tables }
      } catch {
        why = error
      }
      guard isServed, MonotonicClock.nanoseconds() < deadline else {
        throw JournalError(.damaged, "index: \(why); serve the journal once, that builds it again")
      }
      usleep(5000)
    }
  }

  /// How long a commit or a rebuild of the owner may take before a reader gives up.
  private static let commitNanosecondsMax: UInt64 = 60_000_000_000

  /// Says of the index in `directory` that it is not to be believed: whoever opens the journal next builds it again.
  /// Throws `.usage` when there is no journal, `.inUse` while another process has it open.
  package static func abandonIndex(of directory: String) throws(JournalError) {
    let place = JournalDirectory(path: directory)
    _ = try superblock(place)
    let lock = try place.lock()
    place.index.markAbandoned()
    guard place.index.isAbandoned else {
      throw JournalError(
        .failed, "the index in \(place.indexPath) cannot be given up; is the directory writable?")
    }
    _ = consume lock
  }

  /// Who has the journal in `directory`: whether a process holds it now, whether it was closed cleanly, and the
  /// admin address that the last daemon recorded. Throws `.usage` when there is no journal.
  package static func owner(
    of directory: String
  ) throws(JournalError) -> (isServed: Bool, wasClosed: Bool, adminAddress: String?) {
    let place = JournalDirectory(path: directory)
    let found = try superblock(place)
    return (place.isLocked(), found.isClean, found.adminAddress.isEmpty ? nil : found.adminAddress)
  }

  /// The disk and the generation that `name` means: `NAME` and `NAME@live` are the newest of disk NAME.
  func find(_ name: String) throws(JournalError) -> (disk: DiskBody, layer: LayerState) {
    let at = name.lastIndex(of: "@")
    let diskName = String(at.map { name[..<$0] } ?? name[...])
    guard let (id, body) = catalog.disks.first(where: { $0.value.name == diskName }),
      let newest = LayerState.newest(catalog.layers.filter { $0.key.disk == id })
    else {
      let known = catalog.disks.values.map(\.name).sorted().joined(separator: ", ")
      throw JournalError(
        .usage, "the journal has no disk \(diskName)\(known.isEmpty ? "" : "; it has \(known)")")
    }
    guard let at else { return (body, newest) }
    let generation = String(name[name.index(after: at)...])
    if generation == Journal.liveName { return (body, newest) }
    let layers = catalog.layers.filter { $0.key.disk == id && !$0.name.isEmpty }
    guard let layer = layers.first(where: { $0.name == generation }) else {
      let known = layers.sorted { $0.key < $1.key }.map(\.name).joined(separator: ", ")
      throw JournalError(
        .usage,
        "disk \(diskName) has no generation \(generation)\(known.isEmpty ? "" : "; it has \(known)")")
    }
    return (body, layer)
  }

  /// Calls `body` for each run of sectors of disk `name` (or `NAME@GENERATION`) that the index knows of the generation
  /// itself, in order, with where its content is.
  package func forEachExtent(
    of name: String, _ body: (SectorRange, Placement) -> Void
  ) throws(JournalError) {
    let (disk, layer) = try find(name)
    let whole = SectorRange(start: 0, count: disk.byteCount / Sector.byteCount)
    try index.forEach(layer.key, in: whole) { (range, placement) throws(JournalError) in
      body(range, placement)
    }
  }

  /// Bytes of frames that some generation shows something of, whole frames; nil when the index cannot be read.
  private var liveFrameBytes: UInt64? {
    do throws(LMDBError) {
      return try index.liveSegments().values.reduce(0) { $0 + UInt64($1.kibibytes) * 1024 }
    } catch {
      return nil
    }
  }

  /// The status as far as the files tell: what only a daemon knows is 0.
  package func status() throws(JournalError) -> JournalStatus {
    var status = JournalStatus(uuid: superblock.journal.description)
    status.isServed = directory.isLocked()
    status.wasClosed = superblock.isClean
    status.lastSequence = applied.sequence
    status.spilledThrough = applied.sequence
    status.durableThrough = applied.sequence
    status.indexBytes = index.usedByteCount
    (status.segmentCount, status.segmentBytes) = try store.usage()
    status.liveBytes = liveFrameBytes
    status.freeBytes = store.freeByteCount
    let horizon: Horizon?
    do throws(LMDBError) { horizon = try index.horizon() } catch { throw JournalError(error) }
    status.noteHorizon(
      horizon, try index.pastByteCount(through: applied) { store.allocatedByteCount(ofFresh: $0) })
    status.disks = DiskStatus.list(catalog.disks, catalog.layers)
    return status
  }
}
