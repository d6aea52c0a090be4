internal import BlockFile
internal import Bytes
internal import Threads
internal import Zstd

// Frames out of segments: one read, every checksum, the header's echo, then decompression.
//
// Each stored byte is verified on every read from disk; what the cache holds was verified when it got there. The echo
// (the frame says itself which disk and which sectors it holds) catches an index entry that points to the wrong place.
final class FrameReader: @unchecked Sendable {
  // Sendable: the caches and the pool are guarded by `lock`.
  private let store: SegmentStore
  private let lock = Lock()
  private var idle: [Decompressor] = []
  // Two generations instead of a list in order of use: what is not touched while half the budget passes is let go.
  private var young: [FrameAddress: Frame] = [:]
  private var old: [FrameAddress: Frame] = [:]
  private var youngByteCount = 0
  private let cacheBytesMax: Int

  /// A decompressed frame.
  final class Frame: Sendable {
    let layer: LayerKey
    let extents: [FrameExtent]
    let bytes: AlignedBuffer

    fileprivate init(_ header: FrameHeader, _ bytes: AlignedBuffer) {
      layer = header.layer
      extents = header.extents
      self.bytes = bytes
    }

    /// Whether the sectors from `skip` on are `range`.
    func holds(_ range: SectorRange, skip: UInt32) -> Bool {
      var wanted = range
      var first: UInt64 = 0  // of the extent, in the frame
      var position = UInt64(skip)
      for extent in extents where !wanted.isEmpty {
        let end = first + extent.range.count
        if position < end {
          let start = extent.range.start + (position - first)
          guard start == wanted.start else { return false }
          let count = min(wanted.count, end - position)
          wanted.start += count
          position += count
        }
        first = end
      }
      return wanted.isEmpty
    }
  }

  private final class Decompressor {
    let context = ZstdDecompressor()
  }

  init(store: SegmentStore, cacheBytesMax: Int = 32 << 20) {
    self.store = store
    self.cacheBytesMax = cacheBytesMax
  }

  /// The frame at `address`, which must hold the sectors `range` of `layer` from its sector `skip` on.
  func frame(
    _ address: FrameAddress, skip: UInt32, holding range: SectorRange, of layer: LayerKey
  ) throws(JournalError) -> Frame {
    let frame: Frame
    if let found = cached(address) { frame = found } else { frame = try load(address) }
    guard frame.layer == layer, frame.holds(range, skip: skip) else {
      throw damage(address, "does not hold sectors \(range.start) to \(range.end) as the index says")
    }
    return frame
  }

  private func cached(_ address: FrameAddress) -> Frame? {
    lock.withLock {
      if let frame = young[address] { return frame }
      guard let frame = old.removeValue(forKey: address) else { return nil }
      keep(address, frame)
      return frame
    }
  }

  /// The lock is held.
  private func keep(_ address: FrameAddress, _ frame: Frame) {
    guard young.updateValue(frame, forKey: address) == nil else { return }
    youngByteCount += frame.bytes.byteCount
    if youngByteCount > cacheBytesMax / 2 {
      old = young
      young = [:]
      youngByteCount = 0
    }
  }

  private func load(_ address: FrameAddress) throws(JournalError) -> Frame {
    let segment = try store.segment(address.segment)
    let buffer = AlignedBuffer(byteCount: Int(address.kibibytes) * 1024)
    let count: Int
    do throws(FileError) {
      var target = buffer.mutableBytes
      count = try segment.file.read(into: &target, at: address.offset)
    } catch {
      throw JournalError(error)
    }
    let seed = segment.salt &+ address.offset
    let item = buffer.bytes.extracting(0..<count)
    guard let header = FrameHeader(item, seed: seed), header.itemByteCount <= count else {
      throw damage(address, "has a bad header")
    }
    let stored = item.extracting(header.byteCount..<header.itemByteCount)
    guard Checksum.xxh3(stored, seed: seed) == header.payloadChecksum else {
      throw damage(address, "fails its checksum")
    }
    let raw = AlignedBuffer(byteCount: header.rawByteCount)
    guard expand(stored, header.codec, into: raw) else { throw damage(address, "cannot be decompressed") }
    let frame = Frame(header, raw)
    lock.withLock { keep(address, frame) }
    return frame
  }

  private func expand(_ stored: RawSpan, _ codec: Codec, into raw: AlignedBuffer) -> Bool {
    var target = raw.mutableBytes
    switch codec {
    case .raw:
      guard stored.byteCount == raw.byteCount else { return false }
      target.copy(stored, at: 0)
      return true
    case .zstd:
      let context = lock.withLock { idle.popLast() } ?? Decompressor()
      let done = context.context.decompress(stored, into: &target)
      lock.withLock { idle.append(context) }
      return done
    }
  }

  private func damage(_ address: FrameAddress, _ what: String) -> JournalError {
    JournalError(
      .damaged, "frame at offset \(address.offset) of segments/\(SegmentStore.name(address.segment)) \(what)")
  }
}
