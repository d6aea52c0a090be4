internal import BlockFile
internal import Bytes
internal import CSupport
internal import Glibc
internal import Synchronization

// The spool ring as memory: one file, its header mapped once and its ring twice in a row (docs/format.md, "The
// spool ring"). Here are the bytes and the one store that makes a record true; who may have which bytes when is
// SpoolRing's business.
//
// The mapping is shared memory, so every store is there for the next process the moment it is made, whatever
// happens to this one. The order of the stores is what recovery relies on: the header of a record is whole before
// its payload begins, the payload is whole before the commit word is set (a releasing store).

/// A record's header as it stands in the ring.
struct SpoolHeader: Equatable, Sendable {
  var position: UInt64
  /// Header and payload, rounded up to 64.
  var byteCount: Int
  var kind: RecordKind
  var layer: LayerKey
  var range: SectorRange
  var payloadByteCount: Int
}

/// The mapped ring file.
@safe
final class SpoolFile: @unchecked Sendable {
  // Sendable: the mapping is plain memory; SpoolRing hands out disjoint parts of it, and the words that several
  // threads touch (commit words, tail, taint words) are atomics.
  let path: String
  let uuid: JournalUUID
  let capacity: UInt64
  private let salt: UInt64
  /// Set before any thread starts.
  var hooks = TestHooks()
  /// Holds the lock on the file.
  private let descriptor: Int32
  private let header: UnsafeMutableRawPointer
  private let ring: UnsafeMutableRawPointer

  static let headerByteCount = 4096
  static let recordHeaderByteCount = 64
  static let taintWordCount = 496
  private static let version: UInt32 = 1

  /// Makes a ring file of `capacity` bytes (a multiple of 4096) in `directory`, with its space reserved so that no
  /// store can fail later. Nil, with errno's value, when there is no room or no such directory.
  static func create(
    directory: String, capacity: UInt64, journal: JournalUUID
  ) throws(FileError) -> SpoolFile {
    let uuid = JournalUUID.random()
    let path = "\(directory)/spillway-\(uuid).ring"
    let descriptor = unsafe spw_open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else { throw FileError(operation: "open", path: path, errno: errno) }
    let code = posix_fallocate(descriptor, 0, off_t(capacity) + off_t(headerByteCount))
    guard code == 0 else {
      close(descriptor)
      unsafe unlink(path)
      throw FileError(operation: "posix_fallocate", path: path, errno: code)
    }
    do throws(FileError) {
      return try SpoolFile(
        path: path, descriptor: descriptor, capacity: capacity,
        identity: (uuid, journal, UInt64.random(in: 0 ... .max)))
    } catch {
      unsafe unlink(path)
      throw error
    }
  }

  /// Opens the ring that a crashed process left at `path`. Nil when there is none, or when it is not the ring
  /// `uuid` of `journal`. EWOULDBLOCK when another process uses it: that one serves a copy of the same journal.
  static func open(_ path: String, uuid: JournalUUID, journal: JournalUUID) throws(FileError) -> SpoolFile? {
    let descriptor = unsafe spw_open(path, O_RDWR | O_CLOEXEC, 0)
    guard descriptor >= 0 else {
      if errno == ENOENT { return nil }
      throw FileError(operation: "open", path: path, errno: errno)
    }
    var status = stat()
    guard unsafe fstat(descriptor, &status) == 0 else {
      let why = errno
      close(descriptor)
      throw FileError(operation: "fstat", path: path, errno: why)
    }
    let capacity = UInt64(status.st_size) &- UInt64(headerByteCount)
    guard status.st_size > headerByteCount, capacity % 4096 == 0 else {
      close(descriptor)
      return nil
    }
    let file = try SpoolFile(path: path, descriptor: descriptor, capacity: capacity, identity: nil)
    guard file.uuid == uuid, file.word(32) == journal.high, file.word(40) == journal.low,
      file.word(48) == capacity
    else { return nil }
    return file
  }

  /// Maps the open file, which it takes over, and locks it; with an identity it writes the header first.
  private init(
    path: String, descriptor: Int32, capacity: UInt64,
    identity: (uuid: JournalUUID, journal: JournalUUID, salt: UInt64)?
  ) throws(FileError) {
    // SAFETY: both mappings live as long as self; every access below stays inside header (4096 bytes) and ring
    // (twice the capacity), by the preconditions of the accessors.
    guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
      let why = errno
      close(descriptor)
      throw FileError(operation: "flock", path: path, errno: why)
    }
    guard
      let header = unsafe mmap(
        nil, Self.headerByteCount, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0),
      unsafe header != MAP_FAILED
    else {
      let why = errno
      close(descriptor)
      throw FileError(operation: "mmap", path: path, errno: why)
    }
    guard let ring = unsafe spw_map_twice(descriptor, off_t(Self.headerByteCount), Int(capacity)) else {
      let why = errno
      unsafe munmap(header, Self.headerByteCount)
      close(descriptor)
      throw FileError(operation: "mmap", path: path, errno: why)
    }
    self.path = path
    self.descriptor = descriptor
    self.capacity = capacity
    unsafe self.header = header
    unsafe self.ring = ring
    if let identity {
      unsafe header.copyMemory(from: "SPWSPOOL", byteCount: 8)
      unsafe header.storeBytes(of: Self.version, toByteOffset: 8, as: UInt32.self)
      for (at, value) in [
        (16, identity.uuid.high), (24, identity.uuid.low), (32, identity.journal.high),
        (40, identity.journal.low), (48, capacity), (56, identity.salt),
      ] {
        unsafe header.storeBytes(of: value, toByteOffset: at, as: UInt64.self)
      }
      uuid = identity.uuid
      salt = identity.salt
    } else {
      let known =
        unsafe memcmp(header, "SPWSPOOL", 8) == 0 && header.load(fromByteOffset: 8, as: UInt32.self) == 1
      uuid =
        unsafe known
        ? JournalUUID(
          high: header.load(fromByteOffset: 16, as: UInt64.self),
          low: header.load(fromByteOffset: 24, as: UInt64.self)) : .zero
      unsafe salt = header.load(fromByteOffset: 56, as: UInt64.self)
    }
  }

  deinit {
    unsafe munmap(header, Self.headerByteCount)
    unsafe spw_unmap_twice(ring, Int(capacity))
    close(descriptor)
  }

  /// Removes the file's name: nobody needs the ring any more.
  func remove() { unsafe unlink(path) }

  private func word(_ offset: Int) -> UInt64 { unsafe header.load(fromByteOffset: offset, as: UInt64.self) }

  /// The atomic word at `offset` of the header.
  private func headerWord(_ offset: Int) -> UnsafeMutablePointer<Atomic<UInt64>> {
    precondition(offset % 8 == 0 && offset + 8 <= Self.headerByteCount)
    // SAFETY: inside the header, 8-byte aligned; all bits are a valid Atomic<UInt64>.
    return unsafe (header + offset).assumingMemoryBound(to: Atomic<UInt64>.self)
  }

  /// Where `position` lies in the doubled mapping; the next `capacity` bytes from there are the ring's.
  private func at(_ position: UInt64) -> UnsafeMutableRawPointer {
    unsafe ring + Int(position % capacity)
  }

  /// The position up to which everything is in segments.
  var tail: UInt64 {
    get { unsafe headerWord(64).pointee.load(ordering: .acquiring) }
    set { unsafe headerWord(64).pointee.store(newValue, ordering: .releasing) }
  }

  /// The last sequence that was written to a segment and given back: recovery must find it there.
  var spilledThrough: UInt64 {
    get { unsafe headerWord(80).pointee.load(ordering: .acquiring) }
    set { unsafe headerWord(80).pointee.store(newValue, ordering: .releasing) }
  }

  /// Whether a process that used the ring had an I/O error: what it wrote to segments may then be in the page cache
  /// only, and clean, so that no sync will ever write it.
  var hasFailed: Bool {
    get { unsafe headerWord(72).pointee.load(ordering: .acquiring) != 0 }
    set { unsafe headerWord(72).pointee.store(newValue ? 1 : 0, ordering: .releasing) }
  }

  /// Writes the header of a reservation; its commit word is 0 from here on.
  func writeHeader(_ record: SpoolHeader) {
    precondition(record.position % 64 == 0 && UInt64(record.byteCount) <= capacity)
    let raw = unsafe at(record.position)
    let commit = unsafe raw.assumingMemoryBound(to: Atomic<UInt64>.self)
    if !hooks.has(.staleCommitWord) { unsafe commit.pointee.store(0, ordering: .sequentiallyConsistent) }
    let fields: (UInt64, UInt64, UInt64, UInt64, UInt64, UInt64) = (
      record.position,
      UInt64(UInt32(record.byteCount)) | UInt64(record.kind.rawValue) << 32,
      UInt64(record.layer.disk.number) | UInt64(record.layer.generation.number) << 32,
      record.range.start, record.range.count, UInt64(UInt32(record.payloadByteCount))
    )
    unsafe (raw + 8).storeBytes(of: fields, as: (UInt64, UInt64, UInt64, UInt64, UInt64, UInt64).self)
    unsafe (raw + 56).storeBytes(of: headerChecksum(record.position), as: UInt64.self)
  }

  /// The header at `position`, if one was written there in this lap.
  func readHeader(_ position: UInt64) -> SpoolHeader? {
    let raw = unsafe at(position)
    let fields = unsafe (raw + 8).load(as: (UInt64, UInt64, UInt64, UInt64, UInt64, UInt64).self)
    guard fields.0 == position,
      unsafe (raw + 56).load(as: UInt64.self) == headerChecksum(position),
      let kind = RecordKind(rawValue: UInt8(truncatingIfNeeded: fields.1 >> 32))
    else { return nil }
    return SpoolHeader(
      position: position, byteCount: Int(UInt32(truncatingIfNeeded: fields.1)), kind: kind,
      layer: LayerKey(
        disk: DiskID(number: UInt32(truncatingIfNeeded: fields.2)),
        generation: GenerationID(number: UInt32(truncatingIfNeeded: fields.2 >> 32))),
      range: SectorRange(start: fields.3, count: fields.4),
      payloadByteCount: Int(UInt32(truncatingIfNeeded: fields.5)))
  }

  private func headerChecksum(_ position: UInt64) -> UInt64 {
    unsafe Checksum.xxh3(RawSpan(_unsafeStart: at(position) + 8, byteCount: 48), seed: salt)
  }

  /// **The store at which a record becomes true.** Everything written to the record before is visible with it.
  func commit(_ position: UInt64, sequence: UInt64, allZero: Bool) {
    unsafe at(position).assumingMemoryBound(to: Atomic<UInt64>.self).pointee
      .store(sequence << 1 | (allZero ? 1 : 0), ordering: .releasing)
  }

  /// The commit word's sequence, or nil while the record is only reserved.
  func committed(_ position: UInt64) -> (sequence: UInt64, allZero: Bool)? {
    let word = unsafe at(position).assumingMemoryBound(to: Atomic<UInt64>.self).pointee.load(
      ordering: .acquiring)
    return word == 0 ? nil : (word >> 1, word & 1 == 1)
  }

  /// The bytes at `position`, which the caller holds by a reservation, a committed record not yet retired, or an
  /// epoch.
  @unsafe func memory(_ position: UInt64, byteCount: Int) -> UnsafeMutableRawBufferPointer {
    precondition(UInt64(byteCount) <= capacity)
    return unsafe UnsafeMutableRawBufferPointer(start: at(position), count: byteCount)
  }

  /// Marks a generation as broken, for good and for the next process too.
  func setTaint(_ layer: LayerKey) {
    let word = UInt64(layer.disk.number) << 32 | UInt64(layer.generation.number)
    for slot in 0..<Self.taintWordCount {
      let target = unsafe headerWord(128 + slot * 8)
      let found = unsafe target.pointee.load(ordering: .acquiring)
      if found == word { return }
      if found == 0 {
        if unsafe target.pointee.compareExchange(expected: 0, desired: word, ordering: .acquiringAndReleasing)
          .exchanged
        {
          return
        }
      }
    }
  }

  /// The generations marked as broken.
  var taints: [LayerKey] {
    (0..<Self.taintWordCount).compactMap { slot in
      let word = unsafe headerWord(128 + slot * 8).pointee.load(ordering: .acquiring)
      guard word != 0 else { return nil }
      return LayerKey(
        disk: DiskID(number: UInt32(word >> 32)),
        generation: GenerationID(number: UInt32(truncatingIfNeeded: word)))
    }
  }
}
