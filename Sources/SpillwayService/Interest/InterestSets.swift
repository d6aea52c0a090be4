internal import Bytes
internal import ExtentJournal
internal import Threads

/// Releases what `--keep-only` does not name, of every generation as it is opened: what comes there is dropped.
///
/// Byte ranges are released at once. Partitions are known when the disk's own table has arrived: a thread reads it as
/// any reader of the view would, and releases the rest then. Until it has, or when there is no such table, all is kept.
final class InterestSets: @unchecked Sendable {
  // Sendable: `threads` is guarded by `lock`.
  private let interests: [InterestSpecification]
  private let log: JournalLog
  private let lock = Lock()
  private var threads: [WorkerThread] = []

  init(_ interests: [InterestSpecification], log: @escaping JournalLog) {
    self.interests = interests
    self.log = log
  }

  /// Throws unless every disk that is named is one of `disks` and has what is named of it.
  func check(_ disks: [Disk]) throws(ServiceError) {
    for wanted in interests {
      guard let disk = disks.first(where: { $0.name == wanted.disk }) else {
        throw .usage("--keep-only \(wanted.disk): there is no such disk")
      }
      if case .ranges(let ranges) = wanted.interest, let last = ranges.last, last.upperBound > disk.byteCount
      {
        throw .usage(
          "--keep-only \(wanted.disk): byte \(last.upperBound) is beyond the end of the disk, which has \(disk.byteCount)"
        )
      }
    }
  }

  /// Has the generation that `disk` is bound to keep only what is wanted of it. Does nothing when it takes no more writes.
  func apply(to disk: Disk) throws(ServiceError) {
    guard !disk.isClosed, let wanted = interests.first(where: { $0.disk == disk.name }) else { return }
    disk.keepTombstones()
    switch wanted.interest {
    case .ranges(let ranges):
      let kept = ranges.map { ByteRange(start: $0.lowerBound, end: $0.upperBound) }
      try reportingJournalErrors { () throws(JournalError) in try Self.keep(kept, of: disk) }
    case .partitions(let numbers):
      let thread = WorkerThread(name: "keep-only") { [log] in
        do throws(JournalError) {
          try Self.keep(partitions: numbers, of: disk, log)
        } catch {
          guard error.kind != .closing else { return }
          log(
            .warning, "the partitions of \(disk.name) are not known, and all of it is kept: \(error.message)")
        }
      }
      guard let thread else { throw .failed("the system has no thread left for --keep-only") }
      lock.withLock { threads.append(thread) }
    }
  }

  /// Waits for the threads. The journal's parked reads were woken before.
  func stop() {
    for thread in lock.withLock({ threads }) { thread.join() }
  }

  // MARK: - Releasing

  private static func keep(
    partitions numbers: [Int], of disk: Disk, _ log: JournalLog
  ) throws(JournalError) {
    let found = try PartitionTable(of: disk.byteCount) { (range) throws(JournalError) in
      try read(range, of: disk)
    }
    guard let table = found else { throw JournalError(.failed, "it has neither an MBR nor a GPT") }
    for number in table.missing(numbers) { log(.warning, "disk \(disk.name) has no partition \(number)") }
    guard table.missing(numbers).count < numbers.count else {
      throw JournalError(.failed, "it has none of those that are to be kept")
    }
    try keep(table.kept(numbers, of: disk.byteCount), of: disk)
    log(.info, "of disk \(disk.name) only the partitions \(numbers) are kept")
  }

  /// Releases all but `kept`, which is ascending, apart and inside the disk.
  private static func keep(_ kept: [ByteRange], of disk: Disk) throws(JournalError) {
    var position: UInt64 = 0
    for range in kept + [ByteRange(start: disk.byteCount, end: disk.byteCount)] {
      if position < range.start {
        try disk.release(ByteRange(start: position, end: range.start)).wake()
      }
      position = range.end
    }
  }

  /// Reads what the view shows; waits until it has arrived.
  private static func read(_ range: ByteRange, of disk: Disk) throws(JournalError) -> [UInt8] {
    let owner = disk.newOwner()
    defer { disk.dropParked(owner: owner) }
    let woken = Wakes()
    let buffer = AlignedBuffer(byteCount: Int(range.count).roundedUp(to: AlignedBuffer.alignment))
    let since = MonotonicClock.nanoseconds()
    var isRetry = false
    while true {
      var all = buffer.mutableBytes
      var target = all._mutatingExtracting(0..<Int(range.count))
      let read = try disk.readView(range, into: &target, since: since, isRetry: isRetry, owner: owner) {
        { _ in woken.add() }
      }
      if case .served = read { break }
      woken.take()
      isRetry = true
    }
    let bytes = buffer.bytes
    return (0..<Int(range.count)).map { bytes.bigEndian(at: $0) }
  }

  /// Counts wake-ups of one read.
  private final class Wakes: @unchecked Sendable {
    // Sendable: `count` is guarded by `lock`.
    private let lock = Lock()
    private let changed: Condition
    private var count = 0

    init() { changed = Condition(lock) }

    func add() {
      lock.withLock {
        count += 1
        changed.broadcast()
      }
    }

    /// Waits for one.
    func take() {
      lock.withLock {
        while count == 0 { changed.wait() }
        count -= 1
      }
    }
  }
}
