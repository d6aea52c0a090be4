package import Bytes
internal import Glibc
internal import Threads

// Frames for a reader of a whole disk, fetched and decompressed before it asks for them.
//
// A reader is one connection (`owner`). Once it has read half a MiB in order, a thread keeps the frame cache filled one
// to two MiB ahead of it, a MiB at a time, with one read for frames that lie together in a segment. A reader that jumps is
// left alone until it reads in order again. This pays while there is a processor for it: with as many sequential readers
// as processors each decompresses for itself, as without it. Nor does a reader need it whose requests are served by two threads
// at once, since many are in flight: they have both processors, and decompress without a copy.
//
// The memory is the frame cache's. What goes wrong here is not reported: the reader meets it when it gets there.
final class ReadAhead: @unchecked Sendable {
  // Sendable: every variable is guarded by `lock`.
  private let frames: FrameReader
  private let processorCount = Int(sysconf(Int32(_SC_NPROCESSORS_ONLN)))
  private let lock = Lock()
  private let work: Condition
  private var streams: [UInt64: Stream] = [:]
  private var thread: WorkerThread?
  private var isEnding = false

  private static let provenByteCount: UInt64 = 512 << 10
  private static let portionByteCount: UInt64 = 1 << 20
  private static let windowByteCount = 2 * portionByteCount
  /// A reader that is quiet for this long does not count.
  private static let quietNanoseconds: UInt64 = 1_000_000_000

  /// One reader. It holds its disk, and with it the journal, until the reader goes or the journal ends.
  private struct Stream {
    var disk: Disk
    /// Where the next read begins if the reader goes on in order.
    var next: UInt64
    /// Bytes read in order.
    var run: UInt64 = 0
    /// Up to where frames were fetched, or are to be.
    var ahead: UInt64
    /// What to fetch, if anything.
    var wanted: ByteRange?
    /// When it last read (nanoseconds of MonotonicClock).
    var last: UInt64
    /// Which thread served its last read, and how many reads ago it was another one, up to `aloneReadsMin`.
    var thread = pthread_self()
    var aloneReads = ReadAhead.aloneReadsMin

    mutating func noteThread() {
      let current = pthread_self()
      aloneReads = thread == current ? min(aloneReads + 1, ReadAhead.aloneReadsMin) : 0
      thread = current
    }
  }

  /// A reader of whose last reads another thread has served one this many reads ago or more is served by one thread.
  private static let aloneReadsMin = 8

  init(frames: FrameReader) {
    self.frames = frames
    work = Condition(lock)
  }

  /// `owner` has read `range` of `disk`.
  func note(_ range: ByteRange, of disk: Disk, by owner: UInt64) {
    lock.lock()
    defer { lock.unlock() }
    guard !isEnding else { return }
    // Under the lock, so that it is not before what another reader noted.
    let now = MonotonicClock.nanoseconds()
    var stream = streams[owner] ?? Stream(disk: disk, next: range.start, ahead: range.end, last: now)
    // Requests that are in flight together may change places.
    if range.start <= stream.next, range.end > stream.next || stream.next - range.end < Self.portionByteCount
    {
      stream.run += range.end > stream.next ? range.end - stream.next : 0
      stream.next = max(stream.next, range.end)
      stream.ahead = max(stream.ahead, stream.next)
    } else {
      stream = Stream(disk: disk, next: range.end, ahead: range.end, last: now)
    }
    stream.last = now
    stream.noteThread()
    streams[owner] = stream
    if stream.aloneReads == Self.aloneReadsMin, stream.run >= Self.provenByteCount,
      stream.ahead - stream.next <= Self.windowByteCount - Self.portionByteCount,
      stream.wanted == nil, stream.ahead < disk.byteCount
    {
      plan(owner, now)
    }
  }

  /// Asks for the next portion of a proven stream. The lock is held.
  private func plan(_ owner: UInt64, _ now: UInt64) {
    let others = streams.values.count {
      $0.run >= Self.provenByteCount && now - $0.last < Self.quietNanoseconds
    }
    guard others < processorCount, var stream = streams[owner] else { return }
    if thread == nil { thread = WorkerThread(name: "read-ahead", isBackground: true) { self.loop() } }
    let end = min(stream.disk.byteCount, stream.ahead + Self.portionByteCount)
    stream.wanted = ByteRange(start: stream.ahead, end: end)
    stream.ahead = end
    streams[owner] = stream
    work.signal()
  }

  /// `owner` reads no more: nothing is fetched for it from now on.
  func forget(owner: UInt64) { lock.withLock { streams[owner] = nil } }

  /// Ends the thread and lets go of the journal.
  func end() {
    let thread = lock.withLock {
      isEnding = true
      streams = [:]
      work.broadcast()
      defer { self.thread = nil }
      return self.thread
    }
    thread?.join()
  }

  private func loop() {
    while let (owner, disk, range) = next() {
      var window: SegmentWindow?
      let addresses = disk.frames(in: range)
      for (index, address) in addresses.enumerated() where lock.withLock({ streams[owner] != nil }) {
        frames.prefetch(address, followedBy: addresses[(index + 1)...], &window)
      }
    }
  }

  /// Waits for something to fetch; nil at the end.
  private func next() -> (owner: UInt64, disk: Disk, range: ByteRange)? {
    lock.lock()
    defer { lock.unlock() }
    while !isEnding {
      for (owner, stream) in streams {
        guard let range = stream.wanted else { continue }
        streams[owner]?.wanted = nil
        return (owner, stream.disk, range)
      }
      work.wait()
    }
    return nil
  }
}

extension Disk {
  /// Fetches the frames that hold `range`, as far as half of the frame cache, on the calling thread: whoever reads it
  /// soon finds it decompressed. What goes wrong here is not reported, the reader meets it.
  package func warm(_ range: ByteRange) {
    var room = FrameReader.cacheBytesMax / 2
    var start = range.start
    while start < range.end, room > 0 {
      let portion = ByteRange(start: start, end: min(range.end, start + (1 << 20)))
      var window: SegmentWindow?
      let addresses = frames(in: portion)
      for (index, address) in addresses.enumerated() {
        journal.frames.prefetch(address, followedBy: addresses[(index + 1)...], &window)
      }
      // A portion without frames costs a look-up as well, so that a huge empty range ends, too.
      room -= addresses.isEmpty ? 4096 : Int(portion.count)
      start = portion.end
    }
  }

  /// The frames that hold `range`, in the order of the disk; none if that cannot be said.
  fileprivate func frames(in range: ByteRange) -> [FrameAddress] {
    do throws(JournalError) {
      let found = try plan(layer, range.coveringSectors)
      journal.epochs.leave(found.epoch)
      var addresses: [FrameAddress] = []
      for piece in found.pieces {
        guard case .placed(.frame(let address, _)) = piece.source, addresses.last != address else { continue }
        addresses.append(address)
      }
      return addresses
    } catch {
      return []
    }
  }
}

/// Bytes of a segment that were read at once because several frames lie there.
struct SegmentWindow {
  var segment: UInt64
  var offset: UInt64
  var buffer: AlignedBuffer
  var byteCount: Int

  /// Most bytes of a window: a portion's frames, however badly they compress.
  static let byteCountMax: UInt64 = 5 << 18

  /// Where in the buffer `address` lies, if all of it does.
  func range(of address: FrameAddress) -> Range<Int>? {
    guard address.segment == segment, address.offset >= offset else { return nil }
    let start = Int(address.offset - offset)
    let end = start + Int(address.kibibytes) * 1024
    return end <= byteCount ? start..<end : nil
  }

  /// The place from `first` over as many of its followers as lie behind it, close together.
  static func span(_ first: FrameAddress, _ followers: ArraySlice<FrameAddress>) -> Range<UInt64> {
    var end = first.end
    for next in followers {
      guard next.segment == first.segment, next.offset >= first.offset, next.offset <= end + 65536,
        next.end - first.offset <= byteCountMax
      else { break }
      end = max(end, next.end)
    }
    return first.offset..<end
  }
}

extension FrameAddress {
  /// Where it ends in its segment, at the latest.
  fileprivate var end: UInt64 { offset + UInt64(kibibytes) * 1024 }
}
