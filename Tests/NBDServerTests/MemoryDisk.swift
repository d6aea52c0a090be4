import Bytes
import Glibc
import NBDProtocol
import NBDServer
import Threads

/// A directory of one export that lives in an array. Parts of it may not have arrived yet, so that reads
/// park.
final class MemoryDisk: ExportDirectory, @unchecked Sendable {
  // Sendable: everything mutable is guarded by `lock`.
  let description: ExportDescription
  private let lock = Lock()
  private let changed: Condition
  private var bytes: [UInt8]
  private var missing: Set<UInt64> = []
  private var waiters: [ReadWaiter] = []
  private var happened: [String] = []
  private var heldOffset: UInt64?
  private var heldRead: UInt64?
  private var isFlushHeld = false
  private var flushError: ExportError?
  private var afterReply: AfterReply?
  /// Sectors that take a source, which answers when the test lets it.
  private var slow: Range<UInt64> = 0..<0
  private var isSourceOpen = false

  init(
    byteCount: Int = 1 << 20, name: String = "disk", minimumBlock: UInt32 = 1, isReadOnly: Bool = false
  ) {
    bytes = [UInt8](repeating: 0, count: byteCount)
    changed = Condition(lock)
    description = ExportDescription(
      name: name, text: "a disk in memory", byteCount: UInt64(byteCount), isReadOnly: isReadOnly,
      minimumBlock: minimumBlock, contexts: ["base:allocation", "x-test:other"])
  }

  func find(_ name: String) -> ExportDescription? { name == description.name ? description : nil }
  func list() -> [ExportDescription] { [description] }
  func open(_ name: String) throws(ExportError) -> any ExportSession {
    note("open")
    return Session(disk: self)
  }

  // MARK: - What tests do to it

  /// All bytes.
  var content: [UInt8] {
    get { lock.withLock { bytes } }
    set { lock.withLock { bytes = newValue } }
  }

  /// What happened, in order.
  var log: [String] { lock.withLock { happened } }

  /// Waiters of parked reads that were not woken.
  var waiting: Int { lock.withLock { waiters.count } }

  func note(_ what: String) {
    lock.withLock {
      happened.append(what)
      changed.broadcast()
    }
  }

  /// Waits until `what` has happened `count` times. False after 20 seconds.
  func wait(for what: String, count: Int = 1) -> Bool {
    let deadline = MonotonicClock.nanoseconds() + 20_000_000_000
    return lock.withLock {
      while happened.count(where: { $0 == what }) < count {
        if !changed.wait(until: deadline) { return false }
      }
      return true
    }
  }

  /// Sectors that have not arrived: reads of them park.
  func withhold(_ sectors: Range<UInt64>) { lock.withLock { missing.formUnion(sectors) } }

  /// Sectors arrive; every waiter is woken (and those that still miss something park again).
  func arrive(_ sectors: Range<UInt64>) {
    wakeAll { self.missing.subtract(sectors) }
  }

  /// Fails every parked read.
  func failWaiting(_ error: ExportError) {
    for waiter in takeWaiters({}) { waiter.wake(.failed(error)) }
  }

  /// Wakes every waiter `times` times, as an export must not, and keeps none.
  func wakeAll(times: Int = 1, after change: () -> Void = {}) {
    for waiter in takeWaiters(change) { for _ in 0..<times { waiter.wake(.retry) } }
  }

  private func takeWaiters(_ change: () -> Void) -> [ReadWaiter] {
    lock.withLock {
      change()
      defer { waiters = [] }
      return waiters
    }
  }

  /// Commits to `offset` block until `release`.
  func hold(_ offset: UInt64) { lock.withLock { heldOffset = offset } }
  func release() {
    lock.withLock {
      heldOffset = nil
      changed.broadcast()
    }
  }

  /// Reads of `offset` block until `releaseRead`.
  func holdRead(_ offset: UInt64) { lock.withLock { heldRead = offset } }
  func releaseRead() {
    lock.withLock {
      heldRead = nil
      changed.broadcast()
    }
  }

  /// Flushes block until `releaseFlush`.
  func holdFlush() { lock.withLock { isFlushHeld = true } }
  func releaseFlush() {
    lock.withLock {
      isFlushHeld = false
      changed.broadcast()
    }
  }

  func failFlush(_ error: ExportError) { lock.withLock { flushError = error } }
  func afterReplies(_ work: @escaping AfterReply) { lock.withLock { afterReply = work } }

  /// Reads of `sectors` need a source, which hangs until `openSource`.
  func makeSlow(_ sectors: Range<UInt64>) { lock.withLock { slow = sectors } }

  /// The source answers, now and from now on.
  func openSource() {
    lock.withLock {
      isSourceOpen = true
      changed.broadcast()
    }
  }

  /// Whether a read of `range` may go on; waits for the source if it `mayBlock`.
  fileprivate func passSource(_ range: ByteRange, mayBlock: Bool) -> Bool {
    lock.withLock {
      let sectors = range.coveringSectors
      guard sectors.start < slow.upperBound, slow.lowerBound < sectors.end else { return true }
      guard mayBlock else { return false }
      happened += ["source", "source \(range.start)"]
      changed.broadcast()
      while !isSourceOpen { changed.wait() }
      return true
    }
  }

  // MARK: - The session

  private final class Session: ExportSession {
    let disk: MemoryDisk
    init(disk: MemoryDisk) { self.disk = disk }

    func read(
      _ range: ByteRange, into target: inout MutableRawSpan, since: UInt64, isRetry: Bool, mayBlock: Bool,
      waiter: () -> ReadWaiter
    ) throws(ExportError) -> ReadOutcome {
      precondition(target.byteCount == Int(range.count))
      if !disk.passSource(range, mayBlock: mayBlock) { return .blocks }
      disk.lock.lock()
      defer { disk.lock.unlock() }
      while disk.heldRead == range.start { disk.changed.wait() }
      if isRetry { disk.happened.append("retry \(range.start)") }
      let sectors = range.coveringSectors
      if (sectors.start..<sectors.end).contains(where: disk.missing.contains) {
        disk.waiters.append(waiter())
        disk.happened += ["park", "park \(range.start)"]
        disk.changed.broadcast()
        return .parked
      }
      target.withUnsafeMutableBytes { target in
        disk.bytes.withUnsafeBytes {
          target.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[Int(range.start)..<Int(range.end)]))
        }
      }
      disk.happened.append("read \(range.start)")
      return .served(disk.pieces(range))
    }

    func reserve(_ range: ByteRange) throws(ExportError) -> any WriteReservation {
      disk.note("reserve \(range.start)")
      return Reservation(disk, range)
    }

    func writeZeroes(_ range: ByteRange, mayTrim: Bool) throws(ExportError) -> AfterReply? {
      disk.lock.withLock {
        for index in Int(range.start)..<Int(range.end) { disk.bytes[index] = 0 }
      }
      disk.note("zero \(range.start)")
      return nil
    }

    func trim(_ range: ByteRange) throws(ExportError) -> AfterReply? {
      disk.note("trim \(range.start)")
      return nil
    }

    func flush() throws(ExportError) {
      disk.note("flush")
      disk.lock.withLock { while disk.isFlushHeld { disk.changed.wait() } }
      disk.note("flushed")
      if let error = disk.lock.withLock({ disk.flushError }) { throw error }
    }

    func cache(_ range: ByteRange) { disk.note("cache \(range.start)") }

    func blockStatus(_ range: ByteRange, context: String, limit: Int) throws(ExportError) -> [BlockExtent] {
      let (hole, data): (UInt32, UInt32) = context == "base:allocation" ? (3, 0) : (7, 8)
      return disk.lock.withLock {
        disk.pieces(range).prefix(limit).map {
          BlockExtent(byteCount: $0.range.count, flags: $0.isHole ? hole : data)
        }
      }
    }

    func close(cleanly: Bool) { disk.note("close \(cleanly)") }
  }

  private final class Reservation: WriteReservation {
    let disk: MemoryDisk
    let range: ByteRange
    let memory: UnsafeMutableRawBufferPointer

    init(_ disk: MemoryDisk, _ range: ByteRange) {
      self.disk = disk
      self.range = range
      memory = .allocate(byteCount: Int(range.count), alignment: 16)
    }

    deinit { memory.deallocate() }

    func commit() throws(ExportError) -> AfterReply? {
      disk.note("commit \(range.start)")
      return disk.lock.withLock {
        while disk.heldOffset == range.start { disk.changed.wait() }
        disk.bytes.replaceSubrange(Int(range.start)..<Int(range.end), with: memory)
        disk.happened.append("applied \(range.start)")
        disk.changed.broadcast()
        return disk.afterReply
      }
    }

    func payloadIsLate(received: Int, since: UInt64) { disk.note("late \(range.start)") }

    func abandon() { disk.note("abandon \(range.start)") }
  }

  private let zeroes = [UInt8](repeating: 0, count: 512)

  /// Runs of sectors that are all zeroes, and runs that are not.
  private func pieces(_ range: ByteRange) -> [ReadPiece] {
    var pieces: [ReadPiece] = []
    var start = range.start
    while start < range.end {
      let end = min(range.end, (start / 512 + 1) * 512)
      let isHole = bytes.withUnsafeBytes { memory in
        memory[Int(start)] == 0 && memcmp(memory.baseAddress! + Int(start), zeroes, Int(end - start)) == 0
      }
      if pieces.last?.isHole == isHole {
        pieces[pieces.count - 1].range.end = end
      } else {
        pieces.append(ReadPiece(range: ByteRange(start: start, end: end), isHole: isHole))
      }
      start = end
    }
    return pieces
  }
}
