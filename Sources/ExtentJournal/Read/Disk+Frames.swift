internal import Bytes

// The last step of a read: from a frame to where the reader wants the bytes.

extension Disk {
  /// Whoever reads this many bytes at a time reads once, from start to end.
  private static let bulkByteCount = 128 << 10

  /// Copies the bytes `part` of the sectors that a frame holds, of the layer `holder`, to `offset` of `target`: by way of the
  /// cache, or, of a large read that wants the whole frame, without it. The caller is in the segments' epoch.
  ///
  /// False when what lies is perhaps the row and not the frame: then a new index says better.
  func copyFrame(
    _ sectors: SectorRange, _ address: FrameAddress, _ skip: UInt32, _ holder: LayerKey,
    _ part: ByteRange, at offset: Int, into target: inout MutableRawSpan
  ) throws(JournalError) -> Bool {
    do throws(JournalError) {
      if skip == 0, part == sectors.bytes, target.byteCount >= Self.bulkByteCount,
        part.count >= UInt64(FrameReader.wholeByteCountMin)
      {
        var place = target._mutatingExtracting(offset..<offset + Int(part.count))
        try journal.frames.readWhole(sectors, of: holder, in: address, into: &place)
        return true
      }
      try journal.frames.withSectors(sectors, of: holder, in: address, from: skip) {
        (bytes) throws(JournalError) in
        let start = Int(part.start - sectors.bytes.start)
        target.copy(bytes.extracting(start..<start + Int(part.count)), at: offset)
      }
      return true
    } catch {
      if journal.indexIsToBlame(sectors, address, skip, holder, name) { return false }
      guard error.kind == .damaged else { throw error }
      let message =
        "bytes \(sectors.bytes.start) to \(sectors.bytes.end) of \(name) are damaged: \(error.message)"
      journal.log(.error, message)
      throw JournalError(.damaged, message)
    }
  }
}
