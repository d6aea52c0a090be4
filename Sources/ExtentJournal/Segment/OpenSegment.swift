internal import BlockFile
internal import Bytes

/// An opened segment: its file, and what its superblock says.
struct OpenSegment: Sendable {
  let file: any BlockFile
  let superblock: SegmentSuperblock

  var number: UInt64 { superblock.segment }
  var salt: UInt64 { superblock.salt }

  func byteCount() throws(JournalError) -> UInt64 {
    do throws(FileError) { return try file.byteCount() } catch { throw JournalError(error) }
  }

  /// `byteCount` bytes (at least 1) from `offset` on; zeroes behind the end of the file.
  func read(at offset: UInt64, byteCount: Int) throws(JournalError) -> AlignedBuffer {
    try Self.read(file, at: offset, byteCount: byteCount)
  }

  static func read(_ file: any BlockFile, at offset: UInt64, byteCount: Int) throws(JournalError)
    -> AlignedBuffer
  {
    let buffer = AlignedBuffer(byteCount: byteCount)
    var target = buffer.mutableBytes
    do throws(FileError) {
      let count = try file.read(into: &target, at: offset)
      if count < byteCount { target.zero(count..<byteCount) }
    } catch {
      throw JournalError(error)
    }
    return buffer
  }

  /// What the segment ends with, if it is sealed.
  func footer() throws(JournalError) -> SegmentFooter? {
    guard let footer = try Self.footer(of: file), footer.superblock == superblock else { return nil }
    return footer
  }

  static func footer(of file: any BlockFile) throws(JournalError) -> SegmentFooter? {
    let size: UInt64
    do throws(FileError) { size = try file.byteCount() } catch { throw JournalError(error) }
    let least = UInt64(SegmentSuperblock.byteCount + SegmentFooter.byteCount)
    guard size >= least, size % UInt64(AlignedBuffer.alignment) == 0 else { return nil }
    let offset = size - UInt64(SegmentFooter.byteCount)
    let buffer = try read(file, at: offset, byteCount: SegmentFooter.byteCount)
    return SegmentFooter(buffer.bytes, at: offset)
  }

  /// The directory that `footer` speaks of (its first `directoryByteCount` bytes), or nil when it is damaged.
  func directory(_ footer: SegmentFooter) throws(JournalError) -> AlignedBuffer? {
    let count = Int(footer.directoryByteCount)
    let buffer = try read(at: footer.directoryOffset, byteCount: max(count, 1))
    let isRight =
      Checksum.xxh3(buffer.bytes.extracting(0..<count), seed: salt &+ footer.directoryOffset)
      == footer.directoryChecksum
    return isRight ? buffer : nil
  }
}
