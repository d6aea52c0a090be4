internal import BlockFile
internal import Bytes
internal import Threads

/// The segment files of a journal: names, superblocks, and open files for reading.
final class SegmentStore: @unchecked Sendable {
  // Sendable: `open`, `lastNumber` and `sizes` are guarded by `lock`.
  let files: any FileStore
  private let journal: JournalUUID
  private let lock = Lock()
  private var open: [UInt64: OpenSegment] = [:]
  /// The highest number that was ever given to a segment.
  private var lastNumber: UInt64 = 0
  /// Nil before the owner has asked.
  private var sizes: SegmentSizes?

  /// Most files kept open for reading.
  private static let openMax = 256

  init(files: any FileStore, journal: JournalUUID) {
    self.files = files
    self.journal = journal
  }

  static func name(_ segment: UInt64, _ kind: SegmentKind = .fresh) -> String {
    let digits = String(segment, radix: 16)
    return String(repeating: "0", count: 16 - digits.count) + digits + kind.suffix
  }

  /// The numbers of all segments of fresh batches, or of those of moved data, ascending. Other names in the directory are
  /// not ours and are left alone.
  func list(_ kind: SegmentKind = .fresh) throws(FileError) -> [UInt64] {
    try files.list().compactMap { name in
      guard name.hasSuffix(kind.suffix), name.utf8.count == 20 else { return nil }
      return UInt64(name.dropLast(4), radix: 16)
    }.sorted()
  }

  /// The highest number that a segment of either kind has.
  func highestNumber() throws(FileError) -> UInt64 {
    max(try list(.fresh).last ?? 0, try list(.moved).last ?? 0)
  }

  /// Numbers up to `number` are taken: the next segment gets a higher one, of whatever kind it is.
  func skipNumbers(through number: UInt64) { lock.withLock { lastNumber = max(lastNumber, number) } }

  /// What the segment `number` takes on disk, in bytes.
  func allocatedByteCount(ofFresh number: UInt64) -> UInt64 {
    // It may have gone meanwhile, or be one of moved data.
    do throws(FileError) { return try allocatedByteCount(number, .fresh) } catch { return 0 }
  }

  /// What a segment of that kind takes on disk, in bytes.
  func allocatedByteCount(_ number: UInt64, _ kind: SegmentKind) throws(FileError) -> UInt64 {
    try files.allocatedByteCount(Self.name(number, kind))
  }

  /// What the filesystem has free, in bytes; nil when it does not say or knows no bound.
  var freeByteCount: UInt64? {
    do throws(FileError) {
      let free = try files.space().freeByteCount
      return free == .max ? nil : free
    } catch {
      return nil
    }
  }

  /// How many segments there are and the bytes they take.
  func usage() throws(JournalError) -> (count: UInt64, byteCount: UInt64) {
    do throws(FileError) {
      var total: UInt64 = 0
      var count: UInt64 = 0
      for kind in SegmentKind.allCases {
        for number in try list(kind) {
          do throws(FileError) {
            total += try files.allocatedByteCount(Self.name(number, kind))
          } catch {
            // Upkeep has removed it meanwhile.
            guard error.isMissing else { throw error }
            continue
          }
          count += 1
        }
      }
      return (count, total)
    } catch {
      throw JournalError(error)
    }
  }

  /// The bytes that the segments take, for the owner of the journal, who asks with every batch: the filesystem is asked only
  /// about those that may have changed, however many there are.
  func ownedByteCount() throws(FileError) -> UInt64 {
    let known = try lock.withLock { () throws(FileError) in
      if let sizes { return (sizes.unsettled, sizes.settledByteCount, sizes.version) }
      var all = SegmentSizes()
      for kind in SegmentKind.allCases {
        for number in try list(kind) { all.add(SegmentSizes.Key(number: number, kind: kind)) }
      }
      sizes = all
      return (all.unsettled, 0, all.version)
    }
    let (unsettled, settledByteCount, version) = known
    var found: [SegmentSizes.Key: UInt64] = [:]
    for key in unsettled {
      do throws(FileError) {
        found[key] = try allocatedByteCount(key.number, key.kind)
      } catch {
        // Upkeep has removed it meanwhile.
        guard error.isMissing else { throw error }
      }
    }
    lock.withLock { sizes?.settle(found, asOf: version) }
    return settledByteCount + found.values.reduce(0, +)
  }

  /// The segment takes more or less than before, though it is not the newest of its kind: call it behind the change.
  func noteChange(_ number: UInt64, _ kind: SegmentKind) {
    lock.withLock { sizes?.unsettle(SegmentSizes.Key(number: number, kind: kind)) }
  }

  /// The segment `number`, opened and its superblock checked. `.damaged` when that is not right.
  func segment(_ number: UInt64) throws(JournalError) -> OpenSegment {
    switch try load(number) {
    case .success(let segment): return segment
    case .failure(let flaw): throw refusal(number, flaw)
    }
  }

  /// As `segment`, or the flaw when the superblock is torn or damaged; one of something else is refused.
  func segmentOrFlaw(_ number: UInt64) throws(JournalError) -> Result<OpenSegment, FormatFlaw> {
    let found = try load(number)
    if case .failure(let flaw) = found, flaw.kind == .foreign { throw refusal(number, flaw) }
    return found
  }

  /// All bytes of the segment `number`, whatever they are; at least 4096.
  func bytes(of number: UInt64) throws(JournalError) -> AlignedBuffer {
    let file: any BlockFile
    let size: UInt64
    do throws(FileError) {
      file = try files.open(Self.name(number))
      size = try file.byteCount()
    } catch {
      throw JournalError(error)
    }
    return try OpenSegment.read(file, at: 0, byteCount: max(Int(size), SegmentSuperblock.byteCount))
  }

  private func refusal(_ number: UInt64, _ flaw: FormatFlaw) -> JournalError {
    JournalError(
      .damaged, "segments/\(Self.name(number)) \(flaw.sentence); restore it from a copy of the journal")
  }

  private func load(_ number: UInt64) throws(JournalError) -> Result<OpenSegment, FormatFlaw> {
    if let found = lock.withLock({ open[number] }) { return .success(found) }
    let file: any BlockFile
    do throws(FileError) {
      file = try openFile(number)
    } catch {
      if error.isMissing { return .failure(FormatFlaw("is missing")) }
      throw JournalError(error)
    }
    let head = try OpenSegment.read(file, at: 0, byteCount: SegmentSuperblock.byteCount)
    let superblock: SegmentSuperblock
    do throws(FormatFlaw) {
      superblock = try SegmentSuperblock(head.bytes)
    } catch {
      // A sealed segment repeats it at its end.
      guard error.kind == .damaged, let footer = try OpenSegment.footer(of: file) else {
        return .failure(error)
      }
      superblock = footer.superblock
    }
    guard superblock.journal == journal, superblock.segment == number else {
      return .failure(FormatFlaw("belongs to another journal or has another number", .foreign))
    }
    let segment = OpenSegment(file: file, superblock: superblock)
    keep(number, segment)
    return .success(segment)
  }

  /// Fresh batches are what is read most.
  private func openFile(_ number: UInt64) throws(FileError) -> any BlockFile {
    do throws(FileError) {
      return try files.open(Self.name(number, .fresh))
    } catch {
      guard error.isMissing else { throw error }
      return try files.open(Self.name(number, .moved))
    }
  }

  /// Removes the segment `number`. Durable only after `syncNames`.
  func remove(_ number: UInt64, _ kind: SegmentKind = .fresh) throws(FileError) {
    lock.withLock { open[number] = nil }
    try files.unlink(Self.name(number, kind))
    lock.withLock { sizes?.remove(SegmentSizes.Key(number: number, kind: kind)) }
  }

  /// Creates a segment with the next number and a new salt. Its name is durable only after `syncNames`.
  func create(_ kind: SegmentKind) throws(FileError) -> OpenSegment {
    let number = lock.withLock {
      lastNumber += 1
      return lastNumber
    }
    do throws(FileError) {
      return try create(number, kind)
    } catch {
      // Nobody else has one behind it: the next attempt takes the same.
      lock.withLock { if lastNumber == number { lastNumber = number - 1 } }
      throw error
    }
  }

  private func create(_ number: UInt64, _ kind: SegmentKind) throws(FileError) -> OpenSegment {
    let file = try files.create(Self.name(number, kind))
    let superblock = SegmentSuperblock(
      segment: number, salt: UInt64.random(in: 0 ... .max), journal: journal,
      createdNanoseconds: WallClock.nanoseconds(), kind: kind)
    let buffer = AlignedBuffer(byteCount: SegmentSuperblock.byteCount)
    var target = buffer.mutableBytes
    target.zero()
    superblock.encode(into: &target)
    do throws(FileError) {
      try file.write(buffer, byteCount: SegmentSuperblock.byteCount, at: 0)
    } catch {
      // Nothing points here yet: a half-made segment must not stand in the way of the next attempt.
      try files.unlink(Self.name(number, kind))
      throw error
    }
    let segment = OpenSegment(file: file, superblock: superblock)
    keep(number, segment)
    lock.withLock { sizes?.add(SegmentSizes.Key(number: number, kind: kind)) }
    return segment
  }

  private func keep(_ number: UInt64, _ segment: OpenSegment) {
    lock.withLock {
      if open.count >= Self.openMax, let victim = open.keys.min() { open[victim] = nil }
      open[number] = segment
    }
  }
}

extension JournalError {
  /// A failed file operation, in the journal's words.
  init(_ error: FileError) {
    if error.isNoSpace {
      self.init(.noSpace, "\(error); free some space, the journal goes on by itself")
    } else {
      self.init(.failed, "\(error)")
    }
  }
}
