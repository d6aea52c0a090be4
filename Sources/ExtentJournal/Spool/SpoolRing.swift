internal import BlockFile
internal import Bytes
internal import DequeModule
internal import Threads

// Who has which bytes of the ring.
//
// 1. head − tail ≤ capacity. A reservation takes [head, head + n) and blocks until that fits: this is the journal's
//    back-pressure. Reservations are served in the order in which they asked, so a large one cannot starve.
// 2. Every reservation is finished once: committed and later retired, or abandoned.
// 3. The tail moves over finished reservations only, in order. Retiring is allowed when the bytes are written to a
//    segment, the ledger points there, and every reader that may have looked before has left (Epochs).
// 4. Headers are written under the lock, in the order of their positions: a walk from the tail finds them all.

/// A reserved part of the ring.
struct SpoolSlot: Sendable {
  var position: UInt64
  var byteCount: Int
  var payloadByteCount: Int

  var payloadPosition: UInt64 { position + UInt64(SpoolFile.recordHeaderByteCount) }
}

/// The ring's allocator. See the note above.
final class SpoolRing: @unchecked Sendable {
  // Sendable: the mutable properties are guarded by `lock`.
  let file: SpoolFile
  /// Called (without locks) when a reservation has to wait: whatever is committed should be spilled now.
  private let onPressure: @Sendable () -> Void

  private let lock = Lock()
  private let spaceReturned: Condition
  private var head: UInt64
  private var spans: Deque<Span>
  private var nextTicket: UInt64 = 0
  private var servedTicket: UInt64 = 0
  private var closed: JournalError?

  private struct Span {
    var position: UInt64
    var byteCount: Int
    var isFinished: Bool
  }

  /// Payloads above this are received elsewhere and committed piece by piece: an eighth of the ring, and never more
  /// than a segment has room for.
  var payloadBytesMax: Int { min(Int(file.capacity / 8), 32 << 20) }

  /// A ring over a new file, or over a recovered one whose records `recovered` still need their place.
  init(file: SpoolFile, recovered: [SpoolHeader], onPressure: @escaping @Sendable () -> Void) {
    self.file = file
    self.onPressure = onPressure
    spaceReturned = Condition(lock)
    spans = Deque(
      recovered.map { Span(position: $0.position, byteCount: $0.byteCount, isFinished: false) })
    head = recovered.last.map { $0.position + UInt64($0.byteCount) } ?? file.tail
  }

  /// Every record header from the tail on, in the order of reservation.
  static func walk(_ file: SpoolFile) -> [SpoolHeader] {
    var headers: [SpoolHeader] = []
    var position = file.tail
    let end = position + file.capacity
    while position < end, let header = file.readHeader(position),
      header.byteCount >= SpoolFile.recordHeaderByteCount, position + UInt64(header.byteCount) <= end
    {
      headers.append(header)
      position += UInt64(header.byteCount)
    }
    return headers
  }

  /// Takes room for a record with `payloadByteCount` bytes and writes its header. Blocks while the ring is full;
  /// throws when the journal closes or fails meanwhile.
  func reserve(
    _ kind: RecordKind, _ layer: LayerKey, _ range: SectorRange, payloadByteCount: Int
  ) throws(JournalError) -> SpoolSlot {
    let size = (SpoolFile.recordHeaderByteCount + payloadByteCount).roundedUp(to: 64)
    precondition(UInt64(size) <= file.capacity / 2, "a record larger than the ring takes")
    lock.lock()
    defer { lock.unlock() }
    let ticket = nextTicket
    nextTicket += 1
    var told = false
    while closed == nil, ticket != servedTicket || head + UInt64(size) - file.tail > file.capacity {
      if !told, ticket == servedTicket {
        told = true
        lock.unlock()
        onPressure()
        lock.lock()
        continue
      }
      spaceReturned.wait()
    }
    servedTicket += 1
    spaceReturned.broadcast()
    if let closed { throw closed }
    let slot = SpoolSlot(position: head, byteCount: size, payloadByteCount: payloadByteCount)
    file.writeHeader(
      SpoolHeader(
        position: head, byteCount: size, kind: kind, layer: layer, range: range,
        payloadByteCount: payloadByteCount))
    head += UInt64(size)
    spans.append(Span(position: slot.position, byteCount: size, isFinished: false))
    return slot
  }

  /// Gives up a reservation that was never committed.
  func abandon(_ slot: SpoolSlot) { finish([slot.position]) }

  /// Gives back records whose bytes are elsewhere now (rule 3 above).
  func retire(_ positions: [UInt64]) { finish(positions) }

  private func finish(_ positions: [UInt64]) {
    lock.withLock {
      for position in positions {
        spans[index(of: position)].isFinished = true
      }
      var tail = file.tail
      while let first = spans.first, first.isFinished {
        tail = first.position + UInt64(first.byteCount)
        spans.removeFirst()
      }
      file.tail = tail
      if servedTicket != nextTicket { spaceReturned.broadcast() }
    }
  }

  private func index(of position: UInt64) -> Int {
    var low = 0
    var high = spans.count
    while low < high {
      let middle = (low + high) / 2
      if spans[middle].position < position { low = middle + 1 } else { high = middle }
    }
    precondition(low < spans.count && spans[low].position == position, "no such reservation")
    return low
  }

  /// Fails every reservation that waits, and every later one.
  func close(_ reason: JournalError) {
    lock.withLock {
      if closed == nil { closed = reason }
      spaceReturned.broadcast()
    }
  }

  /// Bytes between tail and head.
  var usedByteCount: UInt64 { lock.withLock { head - file.tail } }

  /// Whether a reservation waits for room.
  var isUnderPressure: Bool { lock.withLock { servedTicket != nextTicket } }
}
