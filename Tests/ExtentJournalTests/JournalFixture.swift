import Bytes
import ExtentJournal
import Foundation
import TestKit
import Testing
import Threads

/// A journal in a directory of its own, with its ring beside it, that can be closed, abandoned and opened again.
final class JournalFixture {
  let directory: TemporaryDirectory
  var options = JournalOptions()
  /// Takes effect at the next opening.
  var host = {
    var host = JournalHost()
    // Tests ask for it.
    host.upkeepEveryNanoseconds = nil
    return host
  }()
  private(set) var journal: Journal!
  let messages = Messages()

  init(_ change: (inout JournalOptions) -> Void = { _ in }) throws {
    directory = try TemporaryDirectory()
    options.spoolDirectory = directory.path
    options.spoolByteCount = 16 << 20
    change(&options)
    try open()
  }

  deinit {
    // A test that failed in the middle leaves the journal open.
    journal?.abandon()
  }

  var path: String { directory.file("j") }

  func open() throws {
    let messages = messages
    journal = try Journal.open(path, options: options, host: host) { messages.add("\($0): \($1)") }
  }

  /// Makes the disk that `disk` gives.
  func makeDisk(_ name: String, byteCount: UInt64, mode: DiskMode) throws {
    _ = try journal.disk(name, byteCount: byteCount, mode: mode)
  }

  /// The one disk. Take it anew after a reopening: a handle keeps its journal alive, and with it lock and index.
  var disk: Disk { journal.disks[0] }

  func close() throws {
    defer { journal = nil }
    try journal.close()
  }

  /// Leaves the journal as a killed process would.
  func crash() {
    journal.abandon()
    journal = nil
  }

  /// The ring file that an open or crashed journal has.
  var ringPath: String? {
    try? FileManager.default.contentsOfDirectory(atPath: directory.path)
      .first { $0.hasSuffix(".ring") }.map(directory.file)
  }

  /// Loses the index: the next opening builds it again.
  func removeIndex() throws {
    for name in ["data.mdb", "lock.mdb"] {
      try FileManager.default.removeItem(atPath: "\(path)/index/\(name)")
    }
  }

  var segmentPaths: [String] {
    let names = (try? FileManager.default.contentsOfDirectory(atPath: path + "/segments")) ?? []
    return names.sorted().map { "\(path)/segments/\($0)" }
  }

  /// What was logged, from any thread.
  final class Messages: @unchecked Sendable {
    // Sendable: guarded by `lock`.
    private let lock = Lock()
    private var lines: [String] = []
    func add(_ line: String) { lock.withLock { lines.append(line) } }
    var all: [String] { lock.withLock { lines } }
  }
}

extension Disk {
  /// Writes `bytes` at `offset` and wakes whom they serve.
  func write(_ bytes: [UInt8], at offset: UInt64) throws {
    let slot = try reserve(ByteRange(offset: offset, count: UInt64(bytes.count)))
    slot.memory.copyBytes(from: bytes)
    try slot.commit(durable: false).wake()
  }

  /// The bytes of `range` as a writer reads them, perhaps one that may read in order.
  func bytes(_ range: ByteRange, owner: UInt64? = nil) throws -> [UInt8] {
    let buffer = AlignedBuffer(byteCount: Int(range.count))
    var target = buffer.mutableBytes
    _ = try readIngest(range, into: &target, owner: owner)
    return Array(buffer.raw)
  }

  /// Reads the view; nil when the read is parked (`wake` is then called once).
  func view(
    _ range: ByteRange, since: UInt64 = MonotonicClock.nanoseconds(), owner: UInt64 = 0,
    wake: @escaping @Sendable (ParkWake) -> Void = { _ in }
  ) throws -> [UInt8]? {
    let buffer = AlignedBuffer(byteCount: Int(range.count))
    // What nobody fills in is seen: no test writes this.
    buffer.raw.initializeMemory(as: UInt8.self, repeating: 0xa5)
    var target = buffer.mutableBytes
    switch try readView(range, into: &target, since: since, isRetry: false, owner: owner, wake: { wake }) {
    case .served(let runs):
      var position = range.start
      for run in runs {
        precondition(
          run.range.start == position && !run.range.isEmpty, "the runs of \(range) have a gap: \(runs)")
        position = run.range.end
      }
      precondition(position == range.end, "the runs of \(range) end early: \(runs)")
      return Array(buffer.raw)
    case .parked: return nil
    case .blocks: preconditionFailure("a read that may wait was told to")
    }
  }
}

/// Counts wake-ups and lets a test wait for them.
final class WakeCount: @unchecked Sendable {
  // Sendable: guarded by `lock`.
  private let lock = Lock()
  private let changed: Condition
  private var wakes: [ParkWake] = []

  init() { changed = Condition(lock) }

  func add(_ wake: ParkWake) {
    lock.withLock {
      wakes.append(wake)
      changed.broadcast()
    }
  }

  /// Returns when there were at least `count`.
  func wait(for count: Int) {
    lock.withLock { while wakes.count < count { changed.wait() } }
  }

  var all: [ParkWake] { lock.withLock { wakes } }
}

/// Where threads wait for one another. They spin, so that they leave in the same microsecond.
final class Meeting: @unchecked Sendable {
  // Sendable: guarded by `lock`.
  private let lock = Lock()
  private var arrivals = 0

  func meet(_ count: Int) {
    let mine = lock.withLock { () -> Int in
      arrivals += 1
      return arrivals
    }
    let wanted = (mine + count - 1) / count * count
    while lock.withLock({ arrivals < wanted }) {}
  }
}

/// A flag that several threads may look at.
final class Flag: @unchecked Sendable {
  // Sendable: guarded by `lock`.
  private let lock = Lock()
  private var value = false
  func set() { lock.withLock { value = true } }
  var isSet: Bool { lock.withLock { value } }
  /// Whether it was set; it is not any more.
  func take() -> Bool {
    lock.withLock {
      defer { value = false }
      return value
    }
  }
}

/// The kind of error that `body` throws, if it does.
func failure(_ body: () throws -> Void) -> JournalError.Kind? {
  do {
    try body()
    return nil
  } catch {
    return (error as? JournalError)?.kind
  }
}
