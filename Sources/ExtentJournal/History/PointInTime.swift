internal import BlockFile
internal import Bytes
internal import CSupport
internal import Glibc
internal import LMDB

// The state at the end of a batch is what a rebuild of the index makes of everything up to it: so a point in time is an
// index of its own, built from the segments and cut there. (What was moved counts under the sequence that it came with.)
// It costs a look at the directories of all segments and no stored byte.
//
// Copies that the index does not need may be gone, and their originals not; of the others the newest counts. Whoever builds
// one sees to it that nothing is moved or freed meanwhile, and as long as it is used.

/// See the note at the top of the file.
struct PointInTime {
  let store: SegmentStore
  let journal: JournalUUID
  /// The index as it is; it follows what is to be read.
  let current: IndexTables
  let log: JournalLog
  let isCancelled: () -> Bool

  /// The points in time that there are. Throws when the index is not to be had.
  static func ends(
    _ store: SegmentStore, _ current: IndexTables, journal: JournalUUID
  ) throws(JournalError) -> BatchEnds {
    let applied = try current.applied(journal: journal) ?? AppliedPosition()
    let horizon: Horizon?
    do throws(LMDBError) { horizon = try current.horizon() } catch { throw JournalError(error) }
    return try BatchEnds.read(
      store, from: horizon ?? Horizon(sequence: applied.sequence, timeNanoseconds: 0),
      through: applied.sequence)
  }

  /// An index of the state at `sequence`, one of `ends`, in the empty directory `path`.
  func build(at sequence: UInt64, in path: String) throws(JournalError) -> IndexTables {
    let applied = try current.applied(journal: journal) ?? AppliedPosition()
    precondition(sequence <= applied.sequence, "the index has not got there")
    let tables: IndexTables
    do throws(LMDBError) {
      tables = try IndexTables(path: path, readOnly: false)
    } catch {
      throw JournalError(error)
    }
    guard sequence > 0 else { return tables }
    try IndexRebuild(
      store: store, journal: journal, target: applied, cut: sequence,
      neededFrames: { (number) throws(JournalError) in
        do throws(LMDBError) {
          return Set(try current.liveFrames(of: number).map(\.address.offset))
        } catch {
          throw JournalError(error)
        }
      }, log: log, progressNanoseconds: 3_000_000_000, isCancelled: isCancelled
    ).run(into: tables)
    return tables
  }
}

/// A directory for one index that goes with the value.
final class ScratchDirectory: Sendable {
  let path: String
  private let parent: String?

  /// Makes one in `parent`; if it `goesWithParent` that is made, too, when it is not there, and removed again when nothing else is
  /// in it.
  init(in parent: String, goesWithParent: Bool = false) throws(JournalError) {
    self.parent = goesWithParent ? parent : nil
    // Another one may go in between, and take the parent with it.
    for _ in 0..<(goesWithParent ? Self.attemptsMax : 1) {
      if goesWithParent { unsafe mkdir(parent, 0o700) }
      var template = Array("\(parent)/spillway-XXXXXX".utf8CString)
      // SAFETY: the template is terminated and ours; mkdtemp writes within it.
      let made = unsafe template.withUnsafeMutableBufferPointer { buffer in
        unsafe mkdtemp(buffer.baseAddress!).map { unsafe String(cString: $0) }
      }
      if let made {
        path = made
        return
      }
      guard errno == ENOENT else { break }
    }
    throw JournalError(
      SystemError.isNoSpace(errno) ? .noSpace : .failed,
      "cannot make a directory in \(parent): \(SystemError.text(errno))"
        + (goesWithParent ? "" : "; set TMPDIR to a directory with room"))
  }

  private static let attemptsMax = 100

  /// What TMPDIR says, or /tmp.
  static var usualParent: String {
    // SAFETY: the environment's string is terminated, and copied at once.
    unsafe getenv("TMPDIR").map { unsafe String(cString: $0) } ?? "/tmp"
  }

  deinit {
    for name in ["data.mdb", "lock.mdb"] { unsafe unlink("\(path)/\(name)") }
    unsafe rmdir(path)
    // Fails, and rightly, when there is another.
    if let parent { unsafe rmdir(parent) }
  }
}
