internal import Bytes

// The hashes of a seal, fed with a generation piece by piece.
//
// Content: for each block of 64 KiB of the disk that holds bytes other than zero, XXH3 of the block with the block's number as
// the seed; what is not the generation's own counts as zeroes. Coverage: for each longest run of sectors that are its
// own (seed 1), the base's (seed 2) or released (seed 3), XXH3 of the run's first byte and end. Each is summed modulo 2^64, so that
// neither remembers anything but the block and the run that it is in.
struct SealDigest {
  private var summary = SealSummary()
  private var block: UInt64?
  private let content = AlignedBuffer(byteCount: Self.blockByteCount)
  private var run: (range: SectorRange, whose: Whose)?
  private var position: UInt64 = 0

  /// Whose sectors are; the numbers are the seeds of the coverage.
  private enum Whose: UInt64 {
    case own = 1
    case base
    case nobodys
  }

  static let blockByteCount = 64 << 10
  private static let blockSectors = UInt64(blockByteCount) / Sector.byteCount

  init() {
    var target = content.mutableBytes
    target.zero()
  }

  /// The next pieces are in the order of the disk, and do not overlap.
  mutating func addZeroes(_ range: SectorRange) {
    summary.zeroBytes += range.byteCount
    extend(range, .own)
  }

  mutating func addBase(_ range: SectorRange) {
    summary.baseBytes += range.byteCount
    extend(range, .base)
  }

  mutating func addReleased(_ range: SectorRange) {
    summary.releasedBytes += range.byteCount
    extend(range, .nobodys)
  }

  /// `bytes` are those of the sectors `range`.
  mutating func addData(_ range: SectorRange, _ bytes: RawSpan) {
    precondition(UInt64(bytes.byteCount) == range.byteCount, "the bytes of another range")
    summary.dataBytes += range.byteCount
    extend(range, .own)
    var start = range.start
    while start < range.end {
      let index = start / Self.blockSectors
      if block != index {
        closeBlock()
        block = index
      }
      let end = min(range.end, (index + 1) * Self.blockSectors)
      let from = Int((start - range.start) * Sector.byteCount)
      let count = Int((end - start) * Sector.byteCount)
      let memory = content
      var target = memory.mutableBytes
      target.copy(
        bytes.extracting(from..<from + count), at: Int(start % Self.blockSectors * Sector.byteCount))
      start = end
    }
  }

  /// The sums of everything added.
  consuming func finish() -> SealSummary {
    closeBlock()
    closeRun()
    return summary
  }

  private mutating func closeBlock() {
    let memory = content
    if let block, !memory.bytes.isAllZero {
      summary.hash &+= Checksum.xxh3(memory.bytes, seed: block)
    }
    block = nil
    var target = memory.mutableBytes
    target.zero()
  }

  private mutating func extend(_ range: SectorRange, _ whose: Whose) {
    precondition(range.start >= position, "pieces out of order")
    position = range.end
    if let (open, before) = run, before == whose, open.end == range.start {
      run = (SectorRange(start: open.start, end: range.end), whose)
    } else {
      closeRun()
      run = (range, whose)
    }
  }

  private mutating func closeRun() {
    guard let (range, whose) = run else { return }
    run = nil
    var bytes: [UInt8] = []
    bytes.appendBigEndian(range.bytes.start)
    bytes.appendBigEndian(range.bytes.end)
    // SAFETY: bytes of UInt8 have no padding.
    summary.coverage &+= unsafe Checksum.xxh3(bytes.span.bytes, seed: whose.rawValue)
  }
}
