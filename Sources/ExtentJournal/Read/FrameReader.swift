internal import BlockFile
package import Bytes
internal import Threads
internal import Zstd

// Frames out of segments: one read, every checksum, the header's echo, then decompression.
//
// Each stored byte is verified on every read from disk; what the cache holds was verified when it got there. The echo
// (the frame says itself which disk and which sectors it holds) catches an index entry that points to the wrong place,
// and is asked anew for each entry, of cached frames too. Whoever wants a frame that another reader is fetching waits
// for that one: a frame is read and decompressed once, however many want it.
final class FrameReader: @unchecked Sendable {
  // Sendable: the caches, the flights and the pool are guarded by `lock`.
  private let store: SegmentStore
  private let lock = Lock()
  private var idle: [Decompressor] = []
  // Two generations instead of a list in order of use: what is not touched while half the budget passes is let go.
  private var young: [FrameAddress: Frame] = [:]
  private var old: [FrameAddress: Frame] = [:]
  private var youngByteCount = 0
  private let cacheBytesMax: Int
  private var flights: [FrameAddress: Flight] = [:]

  /// A decompressed frame.
  final class Frame: Sendable {
    let header: FrameHeader
    let bytes: AlignedBuffer

    fileprivate init(_ header: FrameHeader, _ bytes: AlignedBuffer) {
      self.header = header
      self.bytes = bytes
    }
  }

  /// A frame on its way. Guarded by the reader's lock.
  private final class Flight {
    let landed: Condition
    var outcome: Result<Frame, JournalError>?

    init(_ lock: Lock) { landed = Condition(lock) }
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
    let frame = try fetch(address)
    guard frame.header.holds(range, of: layer, from: skip) else {
      throw damage(address, "does not hold sectors \(range.start) to \(range.end) as the index says")
    }
    return frame
  }

  private func fetch(_ address: FrameAddress) throws(JournalError) -> Frame {
    lock.lock()
    if let frame = cached(address) {
      lock.unlock()
      return frame
    }
    if let flight = flights[address] {
      defer { lock.unlock() }
      while true {
        if let outcome = flight.outcome { return try outcome.get() }
        flight.landed.wait()
      }
    }
    let flight = Flight(lock)
    flights[address] = flight
    lock.unlock()

    let outcome = Result { () throws(JournalError) in try load(address) }
    var dropped: [FrameAddress: Frame] = [:]
    lock.withLock {
      flight.outcome = outcome
      flights[address] = nil
      if case .success(let frame) = outcome { dropped = keep(address, frame) }
      flight.landed.broadcast()
    }
    // Freed here and not under the lock: it is half of the cache.
    dropped.removeAll()
    return try outcome.get()
  }

  /// The lock is held.
  private func cached(_ address: FrameAddress) -> Frame? {
    if let frame = young[address] { return frame }
    guard let frame = old[address] else { return nil }
    // Its memory is counted twice until `old` goes, which errs on the small side.
    young[address] = frame
    youngByteCount += frame.bytes.byteCount
    return frame
  }

  /// Adds a frame; returns what no longer has a place. The lock is held.
  private func keep(_ address: FrameAddress, _ frame: Frame) -> [FrameAddress: Frame] {
    young[address] = frame
    youngByteCount += frame.bytes.byteCount
    guard youngByteCount > cacheBytesMax / 2 else { return [:] }
    let dropped = old
    old = young
    young = [:]
    youngByteCount = 0
    return dropped
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
    return Frame(header, raw)
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

extension FrameHeader {
  /// The echo: whether the frame's sectors from its sector `skip` on are the sectors `range` of `layer`.
  package func holds(_ range: SectorRange, of layer: LayerKey, from skip: UInt32) -> Bool {
    guard layer == self.layer else { return false }
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
