internal import BlockFile
internal import Bytes
internal import LMDB
internal import Threads

// The index as the owner of a journal has it: the tables in use, and whether they can be believed.
//
// Rule F: an index that fails is not the end of the journal, since nothing durable depends on it. Whoever meets the
// failure (a lookup, a commit, the audit) abandons the tables; the indexer builds new ones beside them from the segments
// and puts them in their place. Meanwhile
//
// 1. nothing leaves memory: the ledger's maps hold everything that came after the applied position of the old tables;
// 2. what the old tables say is in a frame is served, since the frame itself says what it holds (if it says something
//    else, the read waits as well), and so are their zeroes; what they do not know is not taken for absent, for they
//    may have lost it: such a read waits for the new tables. It waits and does not fail, because a rebuild takes
//    seconds and a guest takes an error for a broken disk;
// 3. when the new tables cannot be made (no space, the segments cannot be read, the journal has failed) such a read
//    fails and says why.

/// See the note at the top of the file.
final class Index: @unchecked Sendable {
  // Sendable: the variables are guarded by `lock`.
  private let directory: IndexDirectory
  private let lock = Lock()
  private let changed: Condition
  private let settings: Settings
  private var tables: IndexTables
  private var state = State.trusted
  private var isClosing = false
  /// Why no new tables will ever come: the journal has failed, and whoever builds them has stopped.
  private var ending: JournalError?
  /// Called when the tables are abandoned, without a lock held: somebody should build new ones.
  var onAbandon: @Sendable (LMDBError) -> Void = { _ in }

  private enum State {
    case trusted
    case abandoned
    /// Abandoned, and the last attempt to replace them failed.
    case failed(JournalError)
  }

  /// What holds for all tables of a journal.
  struct Settings: Sendable {
    var pagesMax: Int
    var fault: @Sendable () throws(LMDBError) -> Void

    /// As `host` wants them; transactions are counted over the life of the settings.
    init(_ host: JournalHost) {
      pagesMax = host.indexPagesMax
      fault = {}
      guard let planted = host.indexFault else { return }
      let count = Count()
      fault = { () throws(LMDBError) in
        let code = planted(count.next())
        if code != 0 { throw LMDBError(operation: "mdb_txn_commit", code: code) }
      }
    }

    private final class Count: @unchecked Sendable {
      // Sendable: guarded by `lock`.
      private let lock = Lock()
      private var value = 0

      func next() -> Int {
        lock.withLock {
          value += 1
          return value
        }
      }
    }
  }

  /// Opens the tables in `directory`.
  init(_ directory: IndexDirectory, _ settings: Settings) throws(LMDBError) {
    self.directory = directory
    self.settings = settings
    changed = Condition(lock)
    tables = try Self.open(directory.path, settings)
  }

  private static func open(_ path: String, _ settings: Settings) throws(LMDBError) -> IndexTables {
    try IndexTables(path: path, readOnly: false, pagesMax: settings.pagesMax, fault: settings.fault)
  }

  /// The tables in use.
  var current: IndexTables { lock.withLock { tables } }

  var usedByteCount: UInt64 { current.usedByteCount }

  /// Whether the tables are not to be believed any more.
  var isAbandoned: Bool {
    lock.withLock {
      if case .trusted = state { false } else { true }
    }
  }

  /// Calls `found` for each piece of `range` that the index knows, in order. False when the tables were abandoned before
  /// it returned: what they do not know may be somewhere all the same.
  func look(
    _ layer: LayerKey, _ range: SectorRange, _ found: (SectorRange, Placement) -> Void
  ) throws(LMDBError) -> Bool {
    let asked = current
    try reporting(asked) { () throws(LMDBError) in try asked.look(layer, range, found) }
    return lock.withLock {
      if case .trusted = state { asked === tables } else { false }
    }
  }

  /// Whether the tables have a row of `layer`; nil when they were abandoned before that was known.
  func holdsAnything(of layer: LayerKey) throws(LMDBError) -> Bool? {
    let asked = current
    let answer = try reporting(asked) { () throws(LMDBError) in try asked.holdsAnything(of: layer) }
    return lock.withLock {
      if case .trusted = state, asked === tables { answer } else { nil }
    }
  }

  /// Adds `delta`, durably.
  func commit(
    _ delta: IndexDelta, journal: JournalUUID, horizon: Horizon, holding: Bool = true
  ) throws(LMDBError) {
    let asked = current
    try reporting(asked) { () throws(LMDBError) in
      try asked.commit(delta, journal: journal, horizon: horizon, holding: holding)
    }
  }

  /// Moves the horizon and lets go of some of what it has passed. False when there was nothing to do.
  func release(through horizon: Horizon) throws(LMDBError) -> Bool {
    let asked = current
    return try reporting(asked) { () throws(LMDBError) in try asked.release(through: horizon) }
  }

  /// Removes some rows that nobody sees any more. False when there are none left.
  func sweep() throws(LMDBError) -> Bool {
    let asked = current
    return try reporting(asked) { () throws(LMDBError) in try asked.sweep() }
  }

  /// Runs `body`, and abandons `asked` when that is why it fails.
  private func reporting<Result>(
    _ asked: IndexTables, _ body: () throws(LMDBError) -> Result
  ) throws(LMDBError) -> Result {
    do throws(LMDBError) {
      return try body()
    } catch {
      if error.isDamage { abandon(asked, error) }
      throw error
    }
  }

  /// Stops believing `failed`, unless other tables have taken its place.
  func abandon(_ failed: IndexTables, _ why: LMDBError) {
    let isFirst = lock.withLock {
      guard failed === tables, case .trusted = state else { return false }
      state = .abandoned
      return true
    }
    guard isFirst else { return }
    directory.markAbandoned()
    onAbandon(why)
  }

  // MARK: - Waiting

  /// Returns when the tables can be believed (again); throws when they could not be made anew.
  func waitUntilTrusted() throws(JournalError) {
    lock.lock()
    defer { lock.unlock() }
    while true {
      switch state {
      case .trusted: return
      case .failed(let error): throw error
      case .abandoned:
        if isClosing { throw .closing }
        if let ending { throw ending }
        changed.wait()
      }
    }
  }

  /// Nobody waits any more.
  func stopWaiting() {
    lock.withLock {
      isClosing = true
      changed.broadcast()
    }
  }

  /// The journal has failed with `error`: who waits for new tables fails as well, now and later.
  func stopRebuilding(_ error: JournalError) {
    lock.withLock {
      ending = ending ?? error
      changed.broadcast()
    }
  }

  // MARK: - New tables

  /// Empty tables in a directory of their own. Who waits for them does, whatever became of the last attempt.
  func makeTables() throws(JournalError) -> IndexTables {
    lock.withLock { state = .abandoned }
    do throws(FileError) { try directory.makeBeside() } catch { throw JournalError(error) }
    do throws(LMDBError) {
      return try Self.open(directory.besidePath, settings)
    } catch {
      throw JournalError(error)
    }
  }

  /// Puts `new`, from `makeTables`, in the place of the tables, durably.
  func replace(by new: IndexTables) throws(JournalError) {
    do throws(FileError) { try directory.replace() } catch { throw JournalError(error) }
    lock.withLock {
      tables = new
      state = .trusted
      changed.broadcast()
    }
  }

  /// Puts a copy without free pages in the place of the tables, if they take more than `byteCountMin` and more than half of that
  /// is free: LMDB never gives a page back. False when there was nothing to do. While nobody commits.
  func compact(byteCountMin: UInt64) throws(JournalError) -> Bool {
    let old = current
    let used = old.usedByteCount
    guard used > byteCountMin else { return false }
    do throws(LMDBError) {
      guard try old.liveByteCount() * 2 < used else { return false }
    } catch {
      throw JournalError(error)
    }
    do throws(FileError) { try directory.makeBeside() } catch { throw JournalError(error) }
    let new: IndexTables
    do throws(LMDBError) {
      try old.environment.copyCompacted(to: directory.besidePath)
      new = try Self.open(directory.besidePath, settings)
    } catch {
      throw JournalError(error)
    }
    // Somebody may have found the old ones wanting, and then their copy is no better.
    guard !isAbandoned else { return false }
    try replace(by: new)
    return true
  }

  /// An attempt to make new tables has failed: who waits is told why.
  func rebuildFailed(_ error: JournalError) {
    lock.withLock {
      state = .failed(error)
      changed.broadcast()
    }
  }
}

extension Journal {
  /// Whether a frame that could not be read may be the wrong one: the index is abandoned already, or is now, since its
  /// row is found to lie.
  func indexIsToBlame(
    _ range: SectorRange, _ address: FrameAddress, _ skip: UInt32, _ layer: LayerKey, _ disk: String
  ) -> Bool {
    if index.isAbandoned { return true }
    let tables = index.current
    let check = FrameCheck(store: store, written: ledger.lock.withLock { ledger.published })
    do throws(LMDBError) {
      guard
        let lie = try check.lie(of: tables, in: layer, range, address, skip: skip, disk: disk)
      else { return false }
      index.abandon(tables, lie)
    } catch {
      guard error.isDamage else { return false }
      index.abandon(tables, error)
    }
    return true
  }
}
