import Bytes
import ExtentJournal
import Foundation
import TestKit
import Testing
import Threads

let indexBlock = 64 << 10

func indexPattern(_ number: Int) -> [UInt8] {
  (0..<indexBlock).map { UInt8(truncatingIfNeeded: $0 / 7 &+ number &* 31) | 1 }
}

/// What happens to the transactions of the index, in the order in which they come.
final class IndexFaultPlan: @unchecked Sendable {
  // Sendable: guarded by `lock`.
  private let lock = Lock()
  private let changed: Condition
  private var codes: [Int32] = []
  private var always: Int32 = 0
  private var isHeld = false
  private var waiting = 0

  init() { changed = Condition(lock) }

  /// The next transactions end with these error numbers.
  func next(_ codes: [Int32]) { lock.withLock { self.codes = codes } }
  /// All others end with this one.
  func always(_ code: Int32) { lock.withLock { always = code } }
  /// Transactions are held up from now on, after what `next` said, until `release`.
  func hold() { lock.withLock { isHeld = true } }

  func release() {
    lock.withLock {
      isHeld = false
      changed.broadcast()
    }
  }

  /// Returns when a transaction is held up.
  func waitUntilHeld() { lock.withLock { while waiting == 0 { changed.wait() } } }

  func outcome() -> Int32 {
    lock.withLock {
      if !codes.isEmpty { return codes.removeFirst() }
      waiting += 1
      changed.broadcast()
      while isHeld { changed.wait() }
      waiting -= 1
      return always
    }
  }
}

struct IndexSetup {
  let fixture: JournalFixture
  let plan = IndexFaultPlan()

  init(mode: DiskMode = .device, segments: SimulatedDisk? = nil) throws {
    fixture = try JournalFixture()
    fixture.host.segments = segments
    let plan = plan
    fixture.host.indexFault = { _ in plan.outcome() }
    fixture.host.fullDiskRetryNanoseconds = 1_000_000
    fixture.host.indexProgressNanoseconds = 0
    try fixture.close()
    try fixture.open()
    try fixture.makeDisk("d", byteCount: 1 << 40, mode: mode)
  }

  func write(_ numbers: Range<Int>) throws {
    for number in numbers {
      try fixture.disk.write(indexPattern(number), at: UInt64(number * 2 * indexBlock))
    }
  }

  func check(_ numbers: Range<Int>) throws {
    for number in numbers {
      let offset = UInt64(number * 2 * indexBlock)
      #expect(
        try fixture.disk.bytes(ByteRange(offset: offset, count: UInt64(indexBlock))) == indexPattern(number))
      let gap = try fixture.disk.bytes(
        ByteRange(offset: offset + UInt64(indexBlock), count: UInt64(indexBlock)))
      #expect(gap.allSatisfy { $0 == 0 })
    }
  }

  func said(_ words: String) -> Int { fixture.messages.all.filter { $0.contains(words) }.count }

  /// Changes every copy of the rows of `disk`'s regions in LMDB's file: `change` gets the row's bytes.
  func damageRows(disk: UInt32, regions: Range<UInt64>, _ change: (inout [UInt8]) -> Void) throws {
    let path = fixture.path + "/index/data.mdb"
    let data = try Data(contentsOf: URL(fileURLWithPath: path))
    let file = try FileHandle(forUpdating: URL(fileURLWithPath: path))
    var hits = 0
    for region in regions {
      let layer = LayerKey(disk: DiskID(number: disk), generation: GenerationID(number: 1))
      let key = Data(RegionRow.key(layer, region: region, part: 0))
      var from = data.startIndex
      while let hit = data.range(of: key, in: from..<data.endIndex) {
        from = hit.upperBound
        // The value follows; one entry is 12 bytes behind a header of four.
        var row = Array(data[hit.upperBound..<hit.upperBound + 16])
        change(&row)
        try file.seek(toOffset: UInt64(hit.upperBound))
        try file.write(contentsOf: Data(row))
        hits += 1
      }
    }
    try file.close()
    #expect(hits > 0)
  }
}

extension IndexSetup {
  /// As `check`; without the gaps when the index cannot tell about them.
  func check(_ numbers: Range<Int>, gaps: Bool) throws {
    guard !gaps else { return try check(numbers) }
    for number in numbers {
      let range = ByteRange(offset: UInt64(number * 2 * indexBlock), count: UInt64(indexBlock))
      #expect(try fixture.disk.bytes(range) == indexPattern(number))
    }
    #expect(throws: JournalError.self) { try fixture.disk.bytes(ByteRange(offset: 1 << 39, count: 4096)) }
  }
}
