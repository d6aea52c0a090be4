import Bytes
import ExtentJournal
import Foundation
import Threads

/// A directory for one benchmark in one round, and the journals in it.
final class Workplace {
  let path: String

  init(in root: String) throws {
    var template = Array("\(root)/spillway-bench-XXXXXX".utf8CString)
    guard mkdtemp(&template) != nil else { throw Failure("no directory in \(root)") }
    path = template.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
  }

  func remove() { try? FileManager.default.removeItem(atPath: path) }

  /// Opens the journal `name`, with a ring of `spoolByteCount` in shared memory.
  func journal(_ name: String, spoolByteCount: UInt64 = 256 << 20) throws -> Journal {
    var options = JournalOptions()
    options.spoolByteCount = spoolByteCount
    return try Journal.open("\(path)/\(name)", options: options) { level, line in
      if level == .error { FileHandle.standardError.write(Data((line + "\n").utf8)) }
    }
  }

  func delete(_ name: String) throws { try FileManager.default.removeItem(atPath: "\(path)/\(name)") }
}

extension Disk {
  /// Writes `bytes` at `offset` as a connection does.
  func write(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws {
    let slot = try reserve(ByteRange(offset: offset, count: UInt64(bytes.count)))
    slot.memory.copyMemory(from: bytes)
    try slot.commit(durable: false).wake()
  }

  /// Reads the ingest side of `range` into `buffer`.
  func read(_ range: ByteRange, _ buffer: AlignedBuffer) throws {
    var all = buffer.mutableBytes
    var target = all._mutatingExtracting(0..<Int(range.count))
    _ = try readIngest(range, into: &target)
  }
}

/// What guests keep on disks: the beginnings of this machine's programs and libraries, one after the other.
enum VirtualMachineData {
  static let bytes: Data = {
    var data = Data(capacity: 256 << 20)
    let root = "/usr/lib"
    let names = FileManager.default.enumerator(atPath: root)?.compactMap { $0 as? String }.sorted() ?? []
    for name in names where data.count < 256 << 20 {
      let path = "\(root)/\(name)"
      let attributes = try? FileManager.default.attributesOfItem(atPath: path)
      guard attributes?[.type] as? FileAttributeType == .typeRegular,
        let file = FileHandle(forReadingAtPath: path), let head = try? file.read(upToCount: 4 << 20)
      else { continue }
      data.append(head)
    }
    precondition(data.count >= 32 << 20, "there is hardly anything in \(root)")
    return data.prefix(256 << 20)
  }()

  /// Calls `body` with neighbouring pieces of `byteCount` bytes, `total` bytes of them, from the start again when they end.
  static func forEach(_ byteCount: Int, total: Int, _ body: (UnsafeRawBufferPointer, UInt64) throws -> Void)
    throws
  {
    try bytes.withUnsafeBytes { raw in
      let usable = raw.count / byteCount * byteCount
      for offset in stride(from: 0, to: total, by: byteCount) {
        let start = offset % usable
        try body(UnsafeRawBufferPointer(rebasing: raw[start..<start + byteCount]), UInt64(offset))
      }
    }
  }
}

/// Random numbers that are the same for the same seed (SplitMix64).
struct SeededGenerator: RandomNumberGenerator {
  private var state: UInt64

  init(seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var mixed = state
    mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
    mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
    return mixed ^ (mixed >> 31)
  }
}

/// How long `body` takes, in seconds.
func seconds(_ body: () throws -> Void) rethrows -> Double {
  let start = MonotonicClock.nanoseconds()
  try body()
  return Double(MonotonicClock.nanoseconds() - start) / 1e9
}

/// Runs `body` on `count` threads at once and returns when all have ended; throws the first error.
func inParallel(_ count: Int, _ body: @escaping @Sendable (_ thread: Int) throws -> Void) throws {
  let outcome = Outcome()
  let threads = (0..<count).map { number in
    WorkerThread(name: "bench-\(number)") {
      if case .failure(let error) = Result(catching: { try body(number) }) { outcome.note(error) }
    }
  }
  for thread in threads { thread?.join() }
  if let error = outcome.first { throw error }
}

private final class Outcome: @unchecked Sendable {
  // Sendable: guarded by `lock`.
  private let lock = Lock()
  private var error: (any Error)?
  func note(_ error: any Error) { lock.withLock { self.error = self.error ?? error } }
  var first: (any Error)? { lock.withLock { error } }
}

/// Anonymous memory of this process, in MiB: neither the ring nor what of the index is in the page cache. What earlier
/// benchmarks left in the heap is given back first, as far as malloc can.
func anonymousMebibytes() throws -> Double {
  if let trim = dlsym(nil, "malloc_trim") {
    _ = unsafeBitCast(trim, to: (@convention(c) (Int) -> Int32).self)(0)
  }
  let status = try String(contentsOfFile: "/proc/self/status", encoding: .utf8)
  let line = status.split(separator: "\n").first { $0.hasPrefix("RssAnon:") }
  guard let kibibytes = line?.split(separator: " ").dropFirst().first.flatMap({ Double($0) }) else {
    throw Failure("no RssAnon in /proc/self/status")
  }
  return kibibytes / 1024
}
