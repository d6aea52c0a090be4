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
//
// A frame that is wanted whole by a large read (`readWhole`) is decompressed where the reader wants it and not kept: whoever
// reads a disk from start to end needs it no more, and spares itself a copy and others their place in the cache.
final class FrameReader: @unchecked Sendable {
  // Sendable: the cache, the flights and the idle benches are guarded by `lock`.
  private let store: SegmentStore
  private let lock = Lock()
  private var cache: FrameCache
  private var flights: [FrameAddress: Flight] = [:]
  private var idle: [Workbench] = []
  private static let idleMax = 8

  /// A decompressed frame.
  final class Frame: @unchecked Sendable {
    // Sendable: constants, and `readers`, which the reader's lock guards.
    let header: FrameHeader
    /// The frame's sectors, and perhaps room behind them.
    let bytes: AlignedBuffer
    /// How many read the bytes now, or will: while there are any the buffer is not used again.
    fileprivate(set) var readers = 0

    fileprivate init(_ header: FrameHeader, _ bytes: AlignedBuffer) {
      self.header = header
      self.bytes = bytes
    }
  }

  /// A frame on its way. Guarded by the reader's lock.
  private final class Flight {
    let landed: Condition
    var outcome: Result<Frame, JournalError>?
    /// Whoever began it and whoever waits for it.
    var readers = 1

    init(_ lock: Lock) { landed = Condition(lock) }
  }

  /// What a thread needs to load a frame, kept for the next one: fresh memory costs a page fault every 4 KiB, which was
  /// half of what a whole-disk read cost.
  private final class Workbench {
    let decompressor = ZstdDecompressor()
    let stored = AlignedBuffer(byteCount: 512 << 10)
  }

  /// Most bytes of decompressed frames, unless a part of them is somebody else's.
  static let cacheBytesMax = 32 << 20

  init(store: SegmentStore) {
    self.store = store
    cache = FrameCache(byteCountMax: Self.cacheBytesMax)
  }

  /// Keeps no more than `byteCountMax` bytes of frames from now on.
  func limitCache(to byteCountMax: Int) { lock.withLock { cache.limit(to: byteCountMax) } }

  /// Lends the bytes of the sectors `range` of `layer`, which the frame at `address` must hold from its sector `skip` on.
  func withSectors(
    _ range: SectorRange, of layer: LayerKey, in address: FrameAddress, from skip: UInt32,
    _ body: (RawSpan) throws(JournalError) -> Void
  ) throws(JournalError) {
    try withOwnedSectors(range, of: layer, in: address, from: skip) { (bytes, _) throws(JournalError) in
      try body(bytes)
    }
  }

  /// As `withSectors`, with the generation that wrote the frame.
  func withOwnedSectors(
    _ range: SectorRange, of layer: LayerKey, in address: FrameAddress, from skip: UInt32,
    _ body: (RawSpan, LayerKey) throws(JournalError) -> Void
  ) throws(JournalError) {
    let frame = try take(address) { () throws(JournalError) in try load(address) }
    defer { giveBack(frame) }
    guard frame.header.holds(range, of: layer, from: skip) else { throw wrongPlace(address, range) }
    let start = Int(skip) * Int(Sector.byteCount)
    let buffer = frame.bytes
    try body(buffer.bytes.extracting(start..<start + Int(range.byteCount)), frame.header.layer)
  }

  /// From this many bytes on a frame that is wanted whole goes past the cache: what a guest's or a tool's random reads
  /// ask for at a time is smaller.
  static let wholeByteCountMin = 64 << 10

  /// Fills `target`, of `wholeByteCountMin` bytes or more, with the sectors `range` of `layer`, which the frame at `address`
  /// must begin with. If they are all of the frame and nobody else has it or wants it now, then it is not kept.
  /// When this throws, what is in `target` is nobody's.
  func readWhole(
    _ range: SectorRange, of layer: LayerKey, in address: FrameAddress, into target: inout MutableRawSpan
  ) throws(JournalError) {
    if lock.withLock({ cache.find(address) == nil && flights[address] == nil }) {
      let segment = try store.segment(address.segment)
      let bench = takeBench()
      defer { giveBack(bench) }
      let stored = bench.stored
      let item = stored.bytes.extracting(0..<(try fetch(address, from: segment, into: stored)))
      let (header, payload) = try verify(item, address, salt: segment.salt)
      if header.rawByteCount == target.byteCount {
        guard header.holds(range, of: layer, from: 0) else { throw wrongPlace(address, range) }
        return try expand(item.extracting(payload), header, address, into: &target, bench)
      }
      // The rest of it may be wanted as well: it is kept, as always.
      giveBack(
        try take(address) { () throws(JournalError) in try decode(item, address, salt: segment.salt, bench) })
    }
    try withSectors(range, of: layer, in: address, from: 0) { (bytes) throws(JournalError) in
      target.copy(bytes, at: 0)
    }
  }

  private func giveBack(_ frame: Frame) { lock.withLock { frame.readers -= 1 } }

  /// Brings the frame at `address` into the cache, unless it is there or on its way. With it come the bytes of those of
  /// `followers` that lie close behind it: they are in `window` for the next calls. What fails is left to the reader.
  func prefetch(
    _ address: FrameAddress, followedBy followers: ArraySlice<FrameAddress>, _ window: inout SegmentWindow?
  ) {
    guard lock.withLock({ cache.find(address) == nil && flights[address] == nil }) else { return }
    do throws(JournalError) {
      if window?.range(of: address) == nil {
        window = try read(SegmentWindow.span(address, followers), address)
      }
      guard let window, let place = window.range(of: address) else { return }
      let frame = try take(address) { () throws(JournalError) in
        let segment = try store.segment(address.segment)
        let bench = takeBench()
        defer { giveBack(bench) }
        let buffer = window.buffer
        return try decode(buffer.bytes.extracting(place), address, salt: segment.salt, bench)
      }
      giveBack(frame)
    } catch {
      window = nil
    }
  }

  private func read(_ range: Range<UInt64>, _ first: FrameAddress) throws(JournalError) -> SegmentWindow {
    let segment = try store.segment(first.segment)
    let buffer = AlignedBuffer(byteCount: range.count)
    do throws(FileError) {
      var target = buffer.mutableBytes
      let count = try segment.file.read(into: &target, at: range.lowerBound)
      return SegmentWindow(segment: first.segment, offset: range.lowerBound, buffer: buffer, byteCount: count)
    } catch {
      throw JournalError(error)
    }
  }

  /// The frame at `address`, to be given back: from the cache, from the thread that is loading it, or by `load`.
  private func take(
    _ address: FrameAddress, _ load: () throws(JournalError) -> Frame
  ) throws(JournalError) -> Frame {
    lock.lock()
    if let frame = cache.find(address) {
      frame.readers += 1
      lock.unlock()
      return frame
    }
    if let flight = flights[address] {
      flight.readers += 1
      defer { lock.unlock() }
      while true {
        if let outcome = flight.outcome { return try outcome.get() }
        flight.landed.wait()
      }
    }
    let flight = Flight(lock)
    flights[address] = flight
    lock.unlock()

    let outcome = Result(catching: load)
    lock.withLock {
      flight.outcome = outcome
      flights[address] = nil
      if case .success(let frame) = outcome {
        frame.readers = flight.readers
        cache.add(frame, at: address)
      }
      flight.landed.broadcast()
    }
    return try outcome.get()
  }

  private func takeBench() -> Workbench { lock.withLock { idle.popLast() } ?? Workbench() }

  private func giveBack(_ bench: Workbench) {
    lock.withLock { if idle.count < Self.idleMax { idle.append(bench) } }
  }

  private func load(_ address: FrameAddress) throws(JournalError) -> Frame {
    let segment = try store.segment(address.segment)
    let bench = takeBench()
    defer { giveBack(bench) }
    let stored = bench.stored
    let count = try fetch(address, from: segment, into: stored)
    return try decode(stored.bytes.extracting(0..<count), address, salt: segment.salt, bench)
  }

  /// Reads the stored item at `address` into the front of `buffer`; returns how much of it there is.
  private func fetch(
    _ address: FrameAddress, from segment: OpenSegment, into buffer: AlignedBuffer
  ) throws(JournalError) -> Int {
    do throws(FileError) {
      var all = buffer.mutableBytes
      var target = all._mutatingExtracting(0..<Int(address.kibibytes) * 1024)
      return try segment.file.read(into: &target, at: address.offset)
    } catch {
      throw JournalError(error)
    }
  }

  /// The header of the frame that `item` begins with, and where in `item` its stored bytes are, once both have passed
  /// their checksums.
  private func verify(
    _ item: RawSpan, _ address: FrameAddress, salt: UInt64
  ) throws(JournalError) -> (header: FrameHeader, stored: Range<Int>) {
    let seed = salt &+ address.offset
    guard let header = FrameHeader(item, seed: seed), header.itemByteCount <= item.byteCount else {
      throw damage(address, "has a bad header")
    }
    let stored = header.byteCount..<header.itemByteCount
    guard Checksum.xxh3(item.extracting(stored), seed: seed) == header.payloadChecksum else {
      throw damage(address, "fails its checksum")
    }
    return (header, stored)
  }

  /// Verifies and decompresses the frame that `item` begins with.
  private func decode(
    _ item: RawSpan, _ address: FrameAddress, salt: UInt64, _ bench: Workbench
  ) throws(JournalError) -> Frame {
    let (header, stored) = try verify(item, address, salt: salt)
    let buffer = lock.withLock { cache.spareBuffer(byteCount: header.rawByteCount) }
    let raw = buffer ?? AlignedBuffer(byteCount: FrameCache.roomByteCount(header.rawByteCount))
    var all = raw.mutableBytes
    var target = all._mutatingExtracting(0..<header.rawByteCount)
    try expand(item.extracting(stored), header, address, into: &target, bench)
    return Frame(header, raw)
  }

  /// Decompresses `stored` into `target`, which is as large as the frame.
  private func expand(
    _ stored: RawSpan, _ header: FrameHeader, _ address: FrameAddress, into target: inout MutableRawSpan,
    _ bench: Workbench
  ) throws(JournalError) {
    switch header.codec {
    case .raw:
      guard stored.byteCount == header.rawByteCount else { break }
      target.copy(stored, at: 0)
      return
    case .zstd:
      if bench.decompressor.decompress(stored, into: &target) { return }
    }
    throw damage(address, "cannot be decompressed")
  }

  private func wrongPlace(_ address: FrameAddress, _ range: SectorRange) -> JournalError {
    damage(address, "does not hold sectors \(range.start) to \(range.end) as the index says")
  }

  private func damage(_ address: FrameAddress, _ what: String) -> JournalError {
    JournalError(
      .damaged, "frame at offset \(address.offset) of segments/\(SegmentStore.name(address.segment)) \(what)")
  }
}

extension FrameHeader {
  /// The echo: whether the frame's sectors from its sector `skip` on are the sectors `range` of `layer`, or of an older
  /// generation of its disk from which `layer` took them in.
  package func holds(_ range: SectorRange, of layer: LayerKey, from skip: UInt32) -> Bool {
    guard layer.disk == self.layer.disk, layer >= self.layer else { return false }
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
