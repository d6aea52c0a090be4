internal import BlockFile
internal import Bytes
internal import DequeModule
internal import Threads

// Who has which bytes of the ring.
//
// 1. head − tail ≤ capacity. A reservation takes [head, head + n) and blocks until that fits: this is the journal's
//    back-pressure. Who waits is served in the order of ReservationQueue, by whoever gives room back.
// 2. Every reservation is finished once: committed and later retired, or abandoned.
// 3. The tail moves over finished reservations only, in order. Retiring is allowed when the bytes are written to a
//    segment, the ledger points there, and every reader that may have looked before has left (Epochs).
// 4. Headers are written under the lock, in the order of their positions: a walk from the tail finds them all.
// 5. The last `urgentByteCount` bytes are for records that must not wait (a taint), so that what has to be said of a
//    ring that is full and stuck can be said.
// 6. A sender that stalls in the middle of a payload keeps its reservation, and the tail cannot pass it. `isHeldUp`
//    tells its receiver that others wait for that; it then goes on in memory of its own and abandons the reservation.

/// A reserved part of the ring.
struct SpoolSlot: Sendable {
  var position: UInt64
  var byteCount: Int
  var payloadByteCount: Int
  /// The bytes of segments that were admitted for it (Admission).
  var admittedByteCount = 0

  var payloadPosition: UInt64 { position + UInt64(SpoolFile.recordHeaderByteCount) }
}

/// The ring's allocator. See the note above.
final class SpoolRing: @unchecked Sendable {
  // Sendable: the mutable properties are guarded by `lock`.
  let file: SpoolFile
  /// Called (without locks) when a reservation has to wait: whatever is committed should be spilled now.
  private let onPressure: @Sendable () -> Void

  private let lock = Lock()
  private var head: UInt64
  private var spans: Deque<Span> = []
  private var queue: ReservationQueue
  private var waiters: [ReservationQueue.Ticket: Waiter] = [:]
  private var closed: JournalError?
  /// Why payloads are refused instead of waiting for room, if they are.
  private var refusal: JournalError?

  private struct Span {
    var position: UInt64
    var byteCount: Int
    var disk: DiskID
    var isFinished: Bool
  }

  /// What a reservation is for.
  struct Claim {
    var kind: RecordKind
    var layer: LayerKey
    var range: SectorRange
    var payloadByteCount: Int
    var byteCount: Int { (SpoolFile.recordHeaderByteCount + payloadByteCount).roundedUp(to: 64) }
  }

  /// Reservations that wait, to be granted together; their thread sleeps on `changed`.
  private final class Waiter {
    let claims: [Claim]
    let changed: Condition
    var slots: [SpoolSlot]?
    init(_ claims: [Claim], _ lock: Lock) {
      self.claims = claims
      changed = Condition(lock)
    }
    var byteCount: Int { claims.reduce(0) { $0 + $1.byteCount } }
    var disk: DiskID { claims[0].layer.disk }
  }

  /// Room that only urgent records may take: for a taint of each generation that has a taint word.
  static let urgentByteCount = 128 << 10

  /// Payloads above this are received elsewhere and committed piece by piece: an eighth of the ring, and never more
  /// than a segment has room for.
  var payloadBytesMax: Int { min(Int(file.capacity / 8), 32 << 20) }

  /// A ring over a new file, or over a recovered one whose records `recovered` still need their place.
  init(file: SpoolFile, recovered: [SpoolHeader], onPressure: @escaping @Sendable () -> Void) {
    self.file = file
    self.onPressure = onPressure
    queue = ReservationQueue(overtakenBytesMax: file.capacity)
    head = recovered.last.map { $0.position + UInt64($0.byteCount) } ?? file.tail
    for header in recovered {
      append(position: header.position, byteCount: header.byteCount, disk: header.layer.disk)
    }
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

  // MARK: - Reservations

  /// Takes room for a record with `payloadByteCount` bytes and writes its header.
  ///
  /// Blocks while the ring is full; throws when the journal closes or fails meanwhile, and `.noSpace` when `deadline`
  /// (nanoseconds of MonotonicClock) passes or payloads are refused. An urgent record goes before all others.
  func reserve(
    _ kind: RecordKind, _ layer: LayerKey, _ range: SectorRange, payloadByteCount: Int,
    isUrgent: Bool = false, until deadline: UInt64? = nil
  ) throws(JournalError) -> SpoolSlot {
    let claim = Claim(kind: kind, layer: layer, range: range, payloadByteCount: payloadByteCount)
    lock.lock()
    defer { lock.unlock() }
    if try mayTakeNow(claim.byteCount, isUrgent: isUrgent) { return take(claim) }
    return try wait(Waiter([claim], lock), until: deadline)[0]
  }

  /// Takes room for several records at once, in this order and without a gap: one after the other they could wait for room
  /// that the first of them keeps.
  func reserve(_ claims: [Claim]) throws(JournalError) -> [SpoolSlot] {
    lock.lock()
    defer { lock.unlock() }
    let byteCount = claims.reduce(0) { $0 + $1.byteCount }
    if try mayTakeNow(byteCount, isUrgent: false) { return claims.map(take) }
    return try wait(Waiter(claims, lock), until: nil)
  }

  private func mayTakeNow(_ byteCount: Int, isUrgent: Bool) throws(JournalError) -> Bool {
    precondition(UInt64(byteCount) <= file.capacity / 2, "a record larger than the ring takes")
    if let closed { throw closed }
    return isUrgent ? fits(byteCount, keeping: 0) : queue.isEmpty && fits(byteCount)
  }

  private func wait(_ waiter: Waiter, until deadline: UInt64?) throws(JournalError) -> [SpoolSlot] {
    let disk = waiter.disk
    let ticket = queue.add(disk, byteCount: waiter.byteCount)
    waiters[ticket] = waiter
    lock.unlock()
    onPressure()
    lock.lock()
    while true {
      if let slots = waiter.slots { return slots }
      var reason = closed ?? (waiter.claims[0].kind == .data ? refusal : nil)
      if reason == nil, let deadline, MonotonicClock.nanoseconds() >= deadline { reason = Self.late }
      if let reason {
        waiters[ticket] = nil
        queue.giveUp(ticket, of: disk)
        // It may have been the one for whom there was no room yet.
        serveWaiters()
        throw reason
      }
      if let deadline { _ = waiter.changed.wait(until: deadline) } else { waiter.changed.wait() }
    }
  }

  private static let late = JournalError(.noSpace, "the disk is too slow or too full: the spool has no room")

  private func fits(_ byteCount: Int, keeping kept: Int = urgentByteCount) -> Bool {
    head + UInt64(byteCount + kept) - file.tail <= file.capacity
  }

  private func take(_ claim: Claim) -> SpoolSlot {
    let slot = SpoolSlot(
      position: head, byteCount: claim.byteCount, payloadByteCount: claim.payloadByteCount)
    file.writeHeader(
      SpoolHeader(
        position: head, byteCount: claim.byteCount, kind: claim.kind, layer: claim.layer, range: claim.range,
        payloadByteCount: claim.payloadByteCount))
    head += UInt64(claim.byteCount)
    append(position: slot.position, byteCount: claim.byteCount, disk: claim.layer.disk)
    return slot
  }

  private func append(position: UInt64, byteCount: Int, disk: DiskID) {
    queue.take(disk, byteCount: byteCount)
    spans.append(Span(position: position, byteCount: byteCount, disk: disk, isFinished: false))
  }

  private func serveWaiters() {
    while let next = queue.next(), fits(next.byteCount), let waiter = waiters.removeValue(forKey: next.ticket)
    {
      queue.grant()
      waiter.slots = waiter.claims.map(take)
      waiter.changed.signal()
    }
  }

  // MARK: - Their ends

  /// Gives up a reservation that was never committed.
  func abandon(_ slot: SpoolSlot) { finish([slot.position]) }

  /// Gives back records whose bytes are elsewhere now (rule 3 above).
  func retire(_ positions: [UInt64]) { finish(positions) }

  /// In runs of 16, between which writers have their turns at the lock.
  private func finish(_ positions: [UInt64]) {
    for start in stride(from: 0, to: positions.count, by: 16) {
      finish(positions[start..<min(start + 16, positions.count)])
    }
  }

  private func finish(_ positions: ArraySlice<UInt64>) {
    lock.withLock {
      for position in positions {
        let index = index(of: position)
        precondition(!spans[index].isFinished, "a reservation ends once")
        spans[index].isFinished = true
        queue.giveBack(spans[index].disk, byteCount: spans[index].byteCount)
      }
      var tail = file.tail
      while let first = spans.first, first.isFinished {
        tail = first.position + UInt64(first.byteCount)
        spans.removeFirst()
      }
      file.tail = tail
      serveWaiters()
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

  /// Whether somebody waits for room and it is `slot`, not the disk, that keeps the tail from moving: nothing before it
  /// has been committed.
  func isHeldUp(by slot: SpoolSlot) -> Bool {
    lock.withLock {
      guard !queue.isEmpty else { return false }
      for span in spans where !span.isFinished {
        if span.position == slot.position { return true }
        if file.committed(span.position) != nil { return false }
      }
      return false
    }
  }

  /// From now on payloads for which there is no room are refused; with nil they wait again.
  func refusePayloads(_ reason: JournalError?) {
    lock.withLock {
      refusal = reason
      for waiter in waiters.values { waiter.changed.signal() }
    }
  }

  /// Fails every reservation that waits, and every later one.
  func close(_ reason: JournalError) {
    lock.withLock {
      if closed == nil { closed = reason }
      for waiter in waiters.values { waiter.changed.signal() }
    }
  }

  /// Bytes between tail and head.
  var usedByteCount: UInt64 { lock.withLock { head - file.tail } }

  /// Whether a reservation waits for room.
  var isUnderPressure: Bool { lock.withLock { !queue.isEmpty } }
}
