import BlockFile
import Bytes

/// One change that is in the cache and not on the medium.
enum SimulatedChange {
  case write(offset: Int, bytes: [UInt8])
  case truncate(Int)
  case punch(Range<Int>)

  /// Whether the power may leave a part of it.
  var isWrite: Bool { if case .truncate = self { false } else { true } }

  func apply(to bytes: inout [UInt8]) {
    switch self {
    case .write(let offset, let written):
      let end = offset + written.count
      if bytes.count < end { bytes.append(contentsOf: [UInt8](repeating: 0, count: end - bytes.count)) }
      bytes.replaceSubrange(offset..<end, with: written)
    case .punch(let range):
      let end = min(range.upperBound, bytes.count)
      for index in min(range.lowerBound, end)..<end { bytes[index] = 0 }
    case .truncate(let count):
      if bytes.count > count {
        bytes.removeSubrange(count...)
      } else {
        bytes.append(contentsOf: [UInt8](repeating: 0, count: count - bytes.count))
      }
    }
  }
}

/// How much of a change the power left.
enum Survival {
  case all
  case nothing
  case sectors(() -> Bool)
}

/// What a file of a simulated disk holds. Guarded by its disk's lock.
final class SimulatedContent {
  /// What survives a power cut for certain.
  private(set) var durable: [UInt8] = []
  /// What a reader sees.
  private(set) var current: [UInt8] = []
  /// Everything since the last sync, in order.
  private(set) var pending: [SimulatedChange] = []

  func copy() -> SimulatedContent {
    let copy = SimulatedContent()
    (copy.durable, copy.current, copy.pending) = (durable, current, pending)
    return copy
  }

  func change(_ change: SimulatedChange) {
    change.apply(to: &current)
    pending.append(change)
  }

  func sync() {
    for change in pending { change.apply(to: &durable) }
    pending = []
  }

  /// The cache forgets that anything is to be written.
  func forgetPending() { pending = [] }

  /// What the file takes: blocks of zeroes are holes.
  var allocatedByteCount: UInt64 {
    stride(from: 0, to: current.count, by: 4096).reduce(0) { sum, start in
      let block = current[start..<min(start + 4096, current.count)]
      return block.allSatisfy { $0 == 0 } ? sum : sum + UInt64(block.count)
    }
  }

  func flip(_ bit: UInt8, at offset: Int) {
    durable[offset] ^= bit
    if offset < current.count { current[offset] ^= bit }
  }

  /// What the power left: `survival` is asked for each change, in order.
  func settle(_ survival: (SimulatedChange) -> Survival) {
    for change in pending {
      switch (survival(change), change) {
      case (.nothing, _): break
      case (.sectors(let isThere), .write(let offset, let bytes)):
        for start in stride(from: 0, to: bytes.count, by: 512) where isThere() {
          let sector = Array(bytes[start..<min(start + 512, bytes.count)])
          SimulatedChange.write(offset: offset + start, bytes: sector).apply(to: &durable)
        }
      case (.sectors(let isThere), .punch(let range)):
        for start in stride(from: range.lowerBound, to: range.upperBound, by: 4096) where isThere() {
          SimulatedChange.punch(start..<start + 4096).apply(to: &durable)
        }
      case (_, let change): change.apply(to: &durable)
      }
    }
    pending = []
    current = durable
  }
}

/// The directory of a simulated disk: files, and which names are on the medium. Guarded by its disk's lock.
struct SimulatedNames {
  private(set) var files: [String: SimulatedContent] = [:]
  private var durable: Set<String> = []
  /// Removed, and back if the power goes before names are synced.
  private var removed: [String: SimulatedContent] = [:]

  func copy() -> SimulatedNames {
    var copy = self
    copy.files = files.mapValues { $0.copy() }
    copy.removed = removed.mapValues { $0.copy() }
    return copy
  }

  /// False when there is a file of that name.
  mutating func create(_ name: String) -> Bool {
    guard files[name] == nil else { return false }
    files[name] = SimulatedContent()
    removed[name] = nil
    durable.remove(name)
    return true
  }

  mutating func remove(_ name: String) {
    guard let content = files.removeValue(forKey: name) else { return }
    if durable.remove(name) != nil { removed[name] = content }
  }

  mutating func sync() {
    durable = Set(files.keys)
    removed = [:]
  }

  /// How many changes are not on the medium: names and removals, writes and cuts.
  var changeCount: Int {
    let contents = Array(files.values) + Array(removed.values)
    return files.count - durable.count + removed.count + contents.reduce(0) { $0 + $1.pending.count }
  }

  /// What the power left. `survival` is asked for each change, by its number and whether it is a write; always in the
  /// same order.
  mutating func settle(_ survival: (_ number: Int, _ isWrite: Bool) -> Survival) {
    var number = 0
    func next(_ isWrite: Bool) -> Survival {
      defer { number += 1 }
      return survival(number, isWrite)
    }
    var left: [String: SimulatedContent] = [:]
    for (name, content) in files.sorted(by: { $0.key < $1.key }) {
      var isThere = true
      if !durable.contains(name), case .nothing = next(false) { isThere = false }
      content.settle { next($0.isWrite) }
      if isThere { left[name] = content }
    }
    for (name, content) in removed.sorted(by: { $0.key < $1.key }) {
      var isGone = true
      if case .nothing = next(false) { isGone = false }
      content.settle { next($0.isWrite) }
      if !isGone { left[name] = content }
    }
    files = left
    durable = Set(left.keys)
    removed = [:]
  }
}

/// A simulated disk at one moment: what is on the medium, and what is only in the cache.
package struct SimulatedSnapshot {
  let names: SimulatedNames

  init(_ names: SimulatedNames) { self.names = names }

  /// How many changes the power may take or leave.
  package var changeCount: Int { names.changeCount }
}

/// An opened file of a simulated disk.
final class SimulatedFile: BlockFile {
  private let disk: SimulatedDisk
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
    let wanted = target.byteCount
    let part = try disk.withContent("read", self) { content in
      let start = min(Int(offset), content.current.count)
      return Array(content.current[start..<min(start + wanted, content.current.count)])
    }
    target.withUnsafeMutableBytes { $0.copyBytes(from: part) }
    return part.count
  }

  func write(_ buffer: AlignedBuffer, byteCount: Int, at offset: UInt64) throws(FileError) {
    try disk.write(Array(buffer.raw.prefix(byteCount)), self, at: Int(offset))
  }

  func sync() throws(FileError) { try disk.sync(self) }

  func punch(_ range: Range<UInt64>) throws(FileError) {
    try disk.punch(Int(range.lowerBound)..<Int(range.upperBound), self)
  }

  func truncate(to byteCount: UInt64) throws(FileError) {
    try disk.withContent("truncate", self) { $0.change(.truncate(Int(byteCount))) }
  }
}
