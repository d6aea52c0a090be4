import ExtentJournal
import TestKit
import Testing

// Goal: no disk starves another in the ring, and no large request starves.
// Method: the pure queue, first on small cases, then under random arrivals of which one disk's never stop.

@Suite("who gets room in the ring next")
struct ReservationQueueTests {
  private let a = DiskID(number: 1)
  private let b = DiskID(number: 2)

  @Test("the disk with the fewest bytes in the ring goes first, and within a disk who asked first")
  func order() {
    var queue = ReservationQueue(overtakenBytesMax: 1000)
    queue.take(a, byteCount: 100)
    queue.take(b, byteCount: 60)
    let tickets = [a, a, b, b].map { queue.add($0, byteCount: 50) }
    var served: [ReservationQueue.Ticket] = []
    for disk in [b, a, b, a] {
      served.append(queue.next()!.ticket)
      queue.grant()
      queue.take(disk, byteCount: 50)
    }
    #expect(served == [tickets[2], tickets[0], tickets[3], tickets[1]])
    #expect(queue.isEmpty)
  }

  @Test("whoever is next stays next while it waits for room, and may give up")
  func chosenStays() {
    var queue = ReservationQueue(overtakenBytesMax: 1000)
    queue.take(a, byteCount: 10)
    let large = queue.add(a, byteCount: 500)
    #expect(queue.next()!.ticket == large)
    let small = queue.add(b, byteCount: 1)
    let later = queue.add(b, byteCount: 1)
    #expect(queue.next()!.ticket == large, "a disk with nothing in the ring must not overtake it now")
    queue.giveUp(large, of: a)
    #expect(queue.next()!.ticket == small)
    queue.giveUp(later, of: b)
    queue.grant()
    #expect(queue.next() == nil)
  }

  @Test("a disk that has most of the ring for ever gets its turn all the same")
  func turn() {
    var queue = ReservationQueue(overtakenBytesMax: 1000)
    queue.take(a, byteCount: 5000)
    let waits = queue.add(a, byteCount: 100)
    var overtaken = 0
    while overtaken <= 2000 {
      _ = queue.add(b, byteCount: 10)
      if queue.next()!.ticket == waits { break }
      queue.grant()
      overtaken += 10
    }
    #expect(overtaken == 1000)
  }

  @Test("nobody is overtaken by more than the bound, however unequal the disks are", arguments: seeds(40))
  func bounded(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    let capacity = 10_000
    var queue = ReservationQueue(overtakenBytesMax: UInt64(capacity))
    var waiting: [(ticket: ReservationQueue.Ticket, disk: DiskID, byteCount: Int, overtaken: Int)] = []
    var ring: [(disk: DiskID, byteCount: Int)] = []
    var used = 0
    // Disk 3 has most of the ring for ever, as a disk with stuck senders would; the others come and go.
    let stuck = DiskID(number: 3)
    queue.take(stuck, byteCount: capacity / 2)
    for _ in 0..<300 {
      let disk = DiskID(number: UInt32.random(in: 1...3, using: &random))
      let size = Int.random(in: 1...capacity / 8, using: &random)
      waiting.append((queue.add(disk, byteCount: size), disk, size, 0))
      while let next = queue.next(), used + next.byteCount <= capacity / 2 {
        let index = waiting.firstIndex { $0.ticket == next.ticket }!
        let served = waiting.remove(at: index)
        #expect(
          !waiting[..<index].contains { $0.disk == served.disk }, "first come, first served within a disk")
        for older in 0..<index { waiting[older].overtaken += served.byteCount }
        queue.grant()
        queue.take(served.disk, byteCount: served.byteCount)
        ring.append((served.disk, served.byteCount))
        used += served.byteCount
      }
      // The bound, and the one that was chosen when it was reached; behind it the others in the order of their age.
      let heads = [1, 2, 3].compactMap { number in waiting.first { $0.disk.number == number } }
      #expect(heads.allSatisfy { $0.overtaken <= capacity + 3 * capacity / 8 }, "overtaken too often")
      if !ring.isEmpty, Bool.random(using: &random) || used > capacity / 3 {
        let left = ring.removeFirst()
        queue.giveBack(left.disk, byteCount: left.byteCount)
        used -= left.byteCount
      }
    }
  }
}
