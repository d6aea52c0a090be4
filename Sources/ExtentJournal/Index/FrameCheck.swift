internal import BlockFile
internal import Bytes
internal import LMDB

/// Whether a row of the index tells the truth about a frame: reads the frame again and believes nothing.
struct FrameCheck {
  let store: SegmentStore
  /// Where the segments end that were written: what a file lacks before that it has lost.
  let written: AppliedPosition

  enum Verdict {
    case right
    /// There is no such frame at the place.
    case lie(String)
    /// There is one, or something that may be, and it cannot be read.
    case damage(String)
  }

  /// The lie that a row of `tables` tells of `range`, if it tells this and it is one. (It may have changed since it was
  /// read.)
  func lie(
    of tables: IndexTables, in layer: LayerKey, _ range: SectorRange, _ address: FrameAddress, skip: UInt32,
    disk: String
  ) throws(LMDBError) -> LMDBError? {
    guard case .lie(let why) = verdict(address, skip: skip, holding: range, of: layer) else { return nil }
    var says = false
    try tables.look(layer, range) { says = says || $0 == range && $1 == .frame(address, skip: skip) }
    guard says else { return nil }
    let place = "offset \(address.offset) of segments/\(SegmentStore.name(address.segment))"
    return .corrupted(
      "the row for bytes \(range.bytes.start) to \(range.bytes.end) of \(disk) points to \(place), which \(why)"
    )
  }

  /// Whether the frame at `address` is there, is whole, and holds the sectors `range` of `layer` from `skip` on.
  func verdict(
    _ address: FrameAddress, skip: UInt32, holding range: SectorRange, of layer: LayerKey
  ) -> Verdict {
    do throws(JournalError) {
      guard try hasSegment(address.segment) else { return .lie("is no segment of this journal") }
      let segment = try store.segment(address.segment)
      let buffer = AlignedBuffer(byteCount: max(Int(address.kibibytes), 1) * 1024)
      let count = try read(segment, into: buffer, at: address.offset)
      let item = buffer.bytes.extracting(0..<count)
      let seed = segment.salt &+ address.offset
      guard let header = FrameHeader(item, seed: seed) else { return try undecodable(address, segment) }
      guard header.holds(range, of: layer, from: skip) else {
        return .lie("holds something else")
      }
      guard (header.itemByteCount + 1023) / 1024 == Int(address.kibibytes) else {
        return .lie("has another size")
      }
      guard header.itemByteCount <= count else { return .damage("is cut off") }
      let stored = item.extracting(header.byteCount..<header.itemByteCount)
      return Checksum.xxh3(stored, seed: seed) == header.payloadChecksum
        ? .right : .damage("fails its checksum")
    } catch {
      return .damage("cannot be read: \(error.message)")
    }
  }

  /// A number above the last one was never written; below, a file that is missing is damage.
  private func hasSegment(_ number: UInt64) throws(JournalError) -> Bool {
    do throws(FileError) {
      let last = try store.highestNumber()
      return (1...max(last, 1)).contains(number)
    } catch {
      throw JournalError(error)
    }
  }

  private func read(
    _ segment: OpenSegment, into buffer: AlignedBuffer, at offset: UInt64
  ) throws(JournalError) -> Int {
    do throws(FileError) {
      var target = buffer.mutableBytes
      return try segment.file.read(into: &target, at: offset)
    } catch {
      throw JournalError(error)
    }
  }

  /// There is no frame at `address`: whether one begins there that is damaged, or the row lies.
  private func undecodable(
    _ address: FrameAddress, _ segment: OpenSegment
  ) throws(JournalError) -> Verdict {
    let buffer = AlignedBuffer(byteCount: 68 << 10)
    var at = UInt64(SegmentSuperblock.byteCount)
    while at < address.offset {
      let count = try read(segment, into: buffer, at: at)
      guard count > 0 else {
        let isLost = address.segment == written.segment && address.offset < written.offset
        return isLost
          ? .damage("is missing: the file ends at \(at)") : .lie("is behind the end of the segment")
      }
      let item = buffer.bytes.extracting(0..<count)
      guard let found = SegmentItem.parse(item, seed: segment.salt &+ at)?.item else {
        return .damage("cannot be found: offset \(at) is damaged too")
      }
      at += UInt64(found.groupByteCount)
      if case .commit = found { at = at.roundedUp(to: AlignedBuffer.alignment) }
    }
    return at == address.offset ? .damage("has a bad header") : .lie("is in the middle of something else")
  }
}
