package import BlockFile
import Bytes
import Threads

// A disk whose power can be cut. It stands behind the file waist in place of the real one.
//
// What is written is in a volatile cache until a sync of its file; names are until `syncNames`. At a power cut a
// seeded choice is made of everything that is not synced: each 512-byte sector of each write, each new name, each
// cut of a file's length is there afterwards or is not, whatever came before or after it. From the cut on every
// operation fails, as it does for a process that no longer runs; `powerOn` brings the disk back with what it kept.
//
// Faults can be planted at the n-th operation: power cut, EIO, ENOSPC. A sync that fails drops what it should have
// made durable, as Linux does.

/// The simulated disk. All methods may be called from any thread.
package final class SimulatedDisk: FileStore, @unchecked Sendable {
  // Sendable: everything is guarded by `lock`.
  private let lock = Lock()
  private var random: SeededGenerator
  private var files: [String: Content] = [:]
  private var durableNames: Set<String> = []
  private var isOff = false
  private var generation = 0
  private var planned: [Int: Fault] = [:]
  /// How many operations there have been.
  package private(set) var operationCount = 0

  /// What can go wrong at an operation.
  package enum Fault: Sendable {
    case powerCut
    case inputOutput
    case noSpace
  }

  fileprivate struct Content {
    /// What survives a power cut for certain.
    var durable: [UInt8] = []
    /// Everything written since, in order.
    var pending: [Change] = []

    enum Change {
      case write(offset: Int, bytes: [UInt8])
      case truncate(Int)
    }

    /// What a reader sees.
    var current: [UInt8] {
      var bytes = durable
      for change in pending { Self.apply(change, to: &bytes) }
      return bytes
    }

    static func apply(_ change: Change, to bytes: inout [UInt8]) {
      switch change {
      case .write(let offset, let written):
        let end = offset + written.count
        if bytes.count < end { bytes.append(contentsOf: [UInt8](repeating: 0, count: end - bytes.count)) }
        bytes.replaceSubrange(offset..<end, with: written)
      case .truncate(let count):
        if bytes.count > count {
          bytes.removeSubrange(count...)
        } else {
          bytes.append(contentsOf: [UInt8](repeating: 0, count: count - bytes.count))
        }
      }
    }
  }

  /// An empty disk whose choices come from `seed`.
  package init(seed: UInt64) { random = SeededGenerator(seed: seed) }

  /// Plants `fault` at the operation that comes after `count` more.
  package func plant(_ fault: Fault, after count: Int) {
    lock.withLock { planned[operationCount + count] = fault }
  }

  /// Takes back what was planted and did not happen.
  package func clearFaults() { lock.withLock { planned = [:] } }

  /// Cuts the power now.
  package func cutPower() { lock.withLock { cutPowerLocked() } }

  /// Whether the power was cut.
  package var isPowerCut: Bool { lock.withLock { isOff } }

  /// The disk again, with what it kept. Files opened before stay dead.
  package func powerOn() {
    lock.withLock {
      isOff = false
      generation += 1
      planned = [:]
    }
  }

  private func cutPowerLocked() {
    guard !isOff else { return }
    isOff = true
    for (name, content) in files.sorted(by: { $0.key < $1.key }) {
      guard durableNames.contains(name) || Bool.random(using: &random) else {
        files[name] = nil
        continue
      }
      files[name] = Content(durable: whatIsLeft(of: content))
    }
    durableNames = Set(files.keys)
  }

  private func whatIsLeft(of content: Content) -> [UInt8] {
    var bytes = content.durable
    for change in content.pending {
      switch change {
      case .truncate:
        if Bool.random(using: &random) { Content.apply(change, to: &bytes) }
      case .write(let offset, let written):
        // All of it, nothing of it, or some sectors of it.
        let luck = Int.random(in: 0..<4, using: &random)
        for start in stride(from: 0, to: written.count, by: 512) {
          guard luck == 0 || luck > 1 && Bool.random(using: &random) else { continue }
          let sector = Array(written[start..<min(start + 512, written.count)])
          Content.apply(.write(offset: offset + start, bytes: sector), to: &bytes)
        }
      }
    }
    return bytes
  }

  /// Counts an operation and throws what was planted for it. Call with the lock held.
  fileprivate func begin(_ operation: String, _ name: String, of birth: Int? = nil) throws(FileError) {
    let fault = planned[operationCount]
    operationCount += 1
    if case .powerCut? = fault { cutPowerLocked() }
    if isOff || birth.map({ $0 != generation }) ?? false {
      throw FileError(operation: operation, path: name, errno: 5)
    }
    switch fault {
    case .inputOutput?: throw FileError(operation: operation, path: name, errno: 5)
    // Only what takes space can find none.
    case .noSpace? where operation == "create" || operation == "write":
      throw FileError(operation: operation, path: name, errno: 28)
    case .noSpace?, .powerCut?, nil: break
    }
  }

  // MARK: - FileStore

  package func list() throws(FileError) -> [String] {
    try lock.withLock { () throws(FileError) in
      try begin("list", "")
      return Array(files.keys)
    }
  }

  package func create(_ name: String) throws(FileError) -> any BlockFile {
    try lock.withLock { () throws(FileError) in
      try begin("create", name)
      guard files[name] == nil else { throw FileError(operation: "create", path: name, errno: 17) }
      files[name] = Content()
      return SimulatedFile(self, name, generation)
    }
  }

  package func open(_ name: String) throws(FileError) -> any BlockFile {
    try lock.withLock { () throws(FileError) in
      try begin("open", name)
      guard files[name] != nil else { throw FileError(operation: "open", path: name, errno: 2) }
      return SimulatedFile(self, name, generation)
    }
  }

  package func allocatedByteCount(_ name: String) throws(FileError) -> UInt64 {
    lock.withLock { UInt64(files[name]?.current.count ?? 0) }
  }

  package func unlink(_ name: String) throws(FileError) {
    try lock.withLock { () throws(FileError) in
      try begin("unlink", name)
      files[name] = nil
      durableNames.remove(name)
    }
  }

  package func syncNames() throws(FileError) {
    try lock.withLock { () throws(FileError) in
      try begin("syncNames", "")
      durableNames = Set(files.keys)
    }
  }

  // MARK: - Files

  fileprivate func withContent<Result>(
    _ operation: String, _ file: SimulatedFile, _ body: (inout Content) -> Result
  ) throws(FileError) -> Result {
    try lock.withLock { () throws(FileError) in
      try begin(operation, file.name, of: file.birth)
      guard var content = files[file.name] else {
        throw FileError(operation: operation, path: file.name, errno: 2)
      }
      let result = body(&content)
      files[file.name] = content
      return result
    }
  }

  /// A failed sync drops what it should have made durable.
  fileprivate func sync(_ file: SimulatedFile) throws(FileError) {
    do throws(FileError) {
      try withContent("sync", file) { content in
        content.durable = content.current
        content.pending = []
      }
    } catch {
      lock.withLock { if !isOff { files[file.name]?.pending = [] } }
      throw error
    }
  }
}

/// An opened file of a simulated disk.
private final class SimulatedFile: BlockFile {
  let disk: SimulatedDisk
  let name: String
  /// Which life of the disk it was opened in.
  let birth: Int

  init(_ disk: SimulatedDisk, _ name: String, _ birth: Int) {
    self.disk = disk
    self.name = name
    self.birth = birth
  }

  func byteCount() throws(FileError) -> UInt64 {
    try disk.withContent("stat", self) { UInt64($0.current.count) }
  }

  func read(into target: inout MutableRawSpan, at offset: UInt64) throws(FileError) -> Int {
    let bytes = try disk.withContent("read", self) { $0.current }
    let start = min(Int(offset), bytes.count)
    let count = min(target.byteCount, bytes.count - start)
    let part = Array(bytes[start..<start + count])
    target.withUnsafeMutableBytes { $0.copyBytes(from: part) }
    return count
  }

  func write(_ buffer: AlignedBuffer, byteCount: Int, at offset: UInt64) throws(FileError) {
    let bytes = Array(buffer.raw.prefix(byteCount))
    try disk.withContent("write", self) { $0.pending.append(.write(offset: Int(offset), bytes: bytes)) }
  }

  func sync() throws(FileError) { try disk.sync(self) }

  func truncate(to byteCount: UInt64) throws(FileError) {
    try disk.withContent("truncate", self) { $0.pending.append(.truncate(Int(byteCount))) }
  }
}
