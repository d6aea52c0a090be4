package import BlockFile
import Threads

// A disk whose power can be cut. It stands behind the file waist in place of the real one.
//
// What is written is in a volatile cache until a sync of its file; names and removals are until `syncNames`. What was
// in the cache when the power went is settled when it comes back: by a seeded choice (each 512-byte sector of each
// write, each name, each removal, each cut of a length is there afterwards or is not, whatever came before or after
// it), or as a test says, change by change. From the cut on every operation fails, as it does for a process that no
// longer runs; `powerOn` brings the disk back with what it kept. SimulatedFault.swift says what else can go wrong.

/// The simulated disk. All methods may be called from any thread.
package final class SimulatedDisk: FileStore, @unchecked Sendable {
  // Sendable: everything is guarded by `lock`.
  private let lock = Lock()
  private var random: SeededGenerator
  private var names = SimulatedNames()
  private var isOff = false
  private var generation = 0
  private var planned: [Int: SimulatedFault] = [:]
  private var plannedWrites: [Int: SimulatedFault] = [:]
  private var writeCount = 0
  /// How many operations there have been.
  package private(set) var operationCount = 0
  /// What planted faults have done, for messages.
  package private(set) var mishaps: [String] = []
  /// Whether one of them hit the first 4096 bytes of a file.
  package private(set) var wasSuperblockHit = false
  /// How many bytes were punched.
  package private(set) var punchedByteCount = 0
  /// How many syncs failed and dropped something.
  package private(set) var droppedSyncCount = 0

  /// An empty disk whose choices come from `seed`.
  package init(seed: UInt64) { random = SeededGenerator(seed: seed) }

  /// The disk that comes back when the power went at `snapshot` and `survivors` says which changes had got through.
  package init(_ snapshot: SimulatedSnapshot, survivors: (Int) -> Bool) {
    random = SeededGenerator(seed: 1)
    names = snapshot.names.copy()
    names.settle { change, _ in survivors(change) ? .all : .nothing }
  }

  // MARK: - Faults

  /// Plants `fault` at the operation that comes after `count` more.
  package func plant(_ fault: SimulatedFault, after count: Int) {
    lock.withLock { planned[operationCount + count] = fault }
  }

  /// Plants `fault`, one of those that only a write can have, at the write that comes after `count` more.
  package func plant(_ fault: SimulatedFault, afterWrites count: Int) {
    precondition(fault.isOfWrites)
    lock.withLock { plannedWrites[writeCount + count] = fault }
  }

  /// Takes back what was planted and did not happen.
  package func clearFaults() {
    lock.withLock {
      planned = [:]
      plannedWrites = [:]
    }
  }

  /// Flips a bit of what is durable, somewhere. False when there is nothing.
  package func rot() -> Bool {
    lock.withLock {
      let candidates = names.files.filter { !$0.value.durable.isEmpty }.sorted { $0.key < $1.key }
      guard let (name, content) = candidates.randomElement(using: &random) else { return false }
      let offset = Int.random(in: 0..<content.durable.count, using: &random)
      content.flip(UInt8(1) << UInt8.random(in: 0..<8, using: &random), at: offset)
      wasSuperblockHit = wasSuperblockHit || offset < 4096
      mishaps.append("a bit of byte \(offset) of \(name) flipped")
      return true
    }
  }

  // MARK: - Power

  /// Cuts the power now.
  package func cutPower() { lock.withLock { isOff = true } }

  /// Whether the power was cut.
  package var isPowerCut: Bool { lock.withLock { isOff } }

  /// The disk again, with what it kept. Files opened before stay dead. Without a power cut before, only the process was
  /// started again, and nothing is lost.
  package func powerOn() {
    lock.withLock {
      if isOff {
        names.settle { _, isWrite in
          // All of it, nothing of it, or, of a write, some sectors of it.
          switch Int.random(in: 0..<4, using: &random) {
          case 0: .all
          case 1: .nothing
          default:
            isWrite
              ? .sectors { Bool.random(using: &self.random) } : Bool.random(using: &random) ? .all : .nothing
          }
        }
      }
      isOff = false
      generation += 1
      planned = [:]
      plannedWrites = [:]
    }
  }

  /// What is durable and what is not, at this moment.
  package var snapshot: SimulatedSnapshot { lock.withLock { SimulatedSnapshot(names.copy()) } }

  /// Counts an operation and throws what was planted for it. Call with the lock held.
  private func begin(_ operation: String, _ name: String, of birth: Int? = nil) throws(FileError) {
    let fault = planned[operationCount]
    operationCount += 1
    if case .powerCut? = fault { isOff = true }
    if isOff || birth.map({ $0 != generation }) ?? false {
      throw FileError(operation: operation, path: name, errno: 5)
    }
    switch fault {
    case .inputOutput?: throw FileError(operation: operation, path: name, errno: 5)
    // Only what takes space can find none.
    case .noSpace? where operation == "create" || operation == "write":
      throw FileError(operation: operation, path: name, errno: 28)
    default: break
    }
  }

  // MARK: - FileStore

  package func list() throws(FileError) -> [String] {
    try lock.withLock { () throws(FileError) in
      try begin("list", "")
      return Array(names.files.keys)
    }
  }

  package func create(_ name: String) throws(FileError) -> any BlockFile {
    try lock.withLock { () throws(FileError) in
      try begin("create", name)
      guard names.create(name) else { throw FileError(operation: "create", path: name, errno: 17) }
      return SimulatedFile(self, name, generation)
    }
  }

  package func open(_ name: String) throws(FileError) -> any BlockFile {
    try lock.withLock { () throws(FileError) in
      try begin("open", name)
      guard names.files[name] != nil else { throw FileError(operation: "open", path: name, errno: 2) }
      return SimulatedFile(self, name, generation)
    }
  }

  package func allocatedByteCount(_ name: String) throws(FileError) -> UInt64 {
    lock.withLock { names.files[name]?.allocatedByteCount ?? 0 }
  }

  package func unlink(_ name: String) throws(FileError) {
    try lock.withLock { () throws(FileError) in
      try begin("unlink", name)
      names.remove(name)
    }
  }

  package func syncNames() throws(FileError) {
    try lock.withLock { () throws(FileError) in
      try begin("syncNames", "")
      names.sync()
    }
  }

  // MARK: - Files

  /// Runs `body` on the content of `file`, as one operation.
  func withContent<Result>(
    _ operation: String, _ file: SimulatedFile, _ body: (SimulatedContent) -> Result
  ) throws(FileError) -> Result {
    try lock.withLock { () throws(FileError) in
      try begin(operation, file.name, of: file.birth)
      guard let content = names.files[file.name] else {
        throw FileError(operation: operation, path: file.name, errno: 2)
      }
      return body(content)
    }
  }

  /// A write, and what may become of it.
  func write(_ bytes: [UInt8], _ file: SimulatedFile, at offset: Int) throws(FileError) {
    let fault = try withContent("write", file) { content -> SimulatedFault? in
      let fault = plannedWrites[writeCount]
      writeCount += 1
      guard let fault else {
        content.change(.write(offset: offset, bytes: bytes))
        return nil
      }
      wasSuperblockHit = wasSuperblockHit || offset == 0
      mishaps.append("write of \(bytes.count) bytes at \(offset) of \(file.name): \(fault)")
      switch fault {
      case .shortWrite:
        let half = Int.random(in: 0...bytes.count / 512, using: &random) * 512
        content.change(.write(offset: offset, bytes: Array(bytes[..<half])))
      case .misdirectedWrite:
        misdirect(bytes, from: (file.name, offset))
      case .lostWrite, .powerCut, .inputOutput, .noSpace: break
      }
      return fault
    }
    if case .shortWrite(let errno)? = fault {
      throw FileError(operation: "write", path: file.name, errno: errno)
    }
  }

  /// Writes `bytes` over something that is there already, and where they do not belong.
  private func misdirect(_ bytes: [UInt8], from place: (name: String, offset: Int)) {
    let victims = names.files.sorted { $0.key < $1.key }
      .flatMap { name, content in stride(from: 0, to: content.current.count, by: 4096).map { (name, $0) } }
      .filter { $0 != place }
    guard let (name, offset) = victims.randomElement(using: &random) else { return }
    names.files[name]?.change(.write(offset: offset, bytes: bytes))
    wasSuperblockHit = wasSuperblockHit || offset == 0
    mishaps.append("it went to \(offset) of \(name)")
  }

  func punch(_ range: Range<Int>, _ file: SimulatedFile) throws(FileError) {
    try withContent("punch", file) { $0.change(.punch(range)) }
    lock.withLock { punchedByteCount += range.count }
  }

  /// A failed sync drops what it should have made durable, as Linux does: later reads still see it in the cache, and
  /// a later sync has nothing to do.
  func sync(_ file: SimulatedFile) throws(FileError) {
    do throws(FileError) {
      try withContent("sync", file) { $0.sync() }
    } catch {
      lock.withLock {
        guard !isOff, let content = names.files[file.name], !content.pending.isEmpty else { return }
        content.forgetPending()
        droppedSyncCount += 1
        mishaps.append("a failed sync dropped what \(file.name) had not made durable")
      }
      throw error
    }
  }
}
