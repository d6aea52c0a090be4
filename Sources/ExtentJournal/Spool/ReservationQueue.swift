internal import DequeModule

// Who gets room in the ring next, when not all can have it. Pure.
//
// 1. Within a disk, who asked first goes first.
// 2. Among the disks, the one that has the fewest bytes in the ring goes first; of equals, the one that waits longer. A
//    disk whose many writers fill the ring leaves room to one that only wants a little of it.
// 3. Whoever was chosen stays chosen until there is room, so that small requests cannot starve a large one.
// 4. Nobody is overtaken by more than `overtakenBytesMax` bytes: after that the oldest of all goes first. So no disk
//    can starve another, whatever either of them has in the ring.

/// The requests that wait for room in the ring. See the note above.
package struct ReservationQueue: Sendable {
  /// The name of one request while it waits: counts up, so that a smaller one is older.
  package typealias Ticket = UInt64

  private struct Request: Sendable {
    var ticket: Ticket
    var byteCount: Int
    /// What had been granted to waiting requests, in bytes, when this one began to wait.
    var grantedBefore: UInt64
  }

  private var waiting: [DiskID: Deque<Request>] = [:]
  private var bytesInUse: [DiskID: Int] = [:]
  private var chosen: DiskID?
  private var lastTicket: Ticket = 0
  private var grantedByteCount: UInt64 = 0
  private let overtakenBytesMax: UInt64

  /// An empty queue over an empty ring. One ring's worth is a good `overtakenBytesMax`.
  package init(overtakenBytesMax: UInt64) { self.overtakenBytesMax = overtakenBytesMax }

  /// Whether nobody waits.
  package var isEmpty: Bool { waiting.isEmpty }

  /// Lets a request of `disk` for `byteCount` bytes wait.
  package mutating func add(_ disk: DiskID, byteCount: Int) -> Ticket {
    lastTicket += 1
    waiting[disk, default: []].append(
      Request(ticket: lastTicket, byteCount: byteCount, grantedBefore: grantedByteCount))
    return lastTicket
  }

  /// Who is next, and how much it wants. The same until it is granted or gives up.
  package mutating func next() -> (ticket: Ticket, byteCount: Int)? {
    if chosen == nil { chosen = choose() }
    return chosen.flatMap { waiting[$0]?.first }.map { ($0.ticket, $0.byteCount) }
  }

  private func choose() -> DiskID? {
    let heads = waiting.compactMap { (disk, requests) in requests.first.map { (disk, $0) } }
    guard let oldest = heads.min(by: { $0.1.ticket < $1.1.ticket }) else { return nil }
    if grantedByteCount - oldest.1.grantedBefore >= overtakenBytesMax { return oldest.0 }
    return heads.min {
      (bytesInUse[$0.0, default: 0], $0.1.ticket) < (bytesInUse[$1.0, default: 0], $1.1.ticket)
    }?.0
  }

  /// The request that `next` named has got its room: it waits no longer. (Count the room with `take`.)
  package mutating func grant() {
    guard let disk = chosen, let request = waiting[disk]?.first else {
      preconditionFailure("nobody was chosen")
    }
    remove(disk, at: 0)
    chosen = nil
    grantedByteCount += UInt64(request.byteCount)
  }

  /// A request of `disk` waits no longer and has got nothing.
  package mutating func giveUp(_ ticket: Ticket, of disk: DiskID) {
    guard let index = waiting[disk]?.firstIndex(where: { $0.ticket == ticket }) else { return }
    if index == 0, chosen == disk { chosen = nil }
    remove(disk, at: index)
  }

  private mutating func remove(_ disk: DiskID, at index: Int) {
    waiting[disk]?.remove(at: index)
    if waiting[disk]?.isEmpty == true { waiting[disk] = nil }
  }

  /// `disk` has `byteCount` more bytes in the ring.
  package mutating func take(_ disk: DiskID, byteCount: Int) { bytesInUse[disk, default: 0] += byteCount }

  /// `disk` has `byteCount` fewer bytes in the ring.
  package mutating func giveBack(_ disk: DiskID, byteCount: Int) {
    let left = bytesInUse[disk, default: 0] - byteCount
    precondition(left >= 0, "more given back than was taken")
    bytesInUse[disk] = left == 0 ? nil : left
  }
}
