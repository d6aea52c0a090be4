import BlockFile
import Bytes
import ExtentJournal
import TestKit
import Testing

// Goal: what is admitted can be stored, at worst.
// Method: the pure account; and random batches, planned as they would be and stored raw, against what was admitted.

@Suite("the account of free space")
struct SpaceAccountTests {
  @Test("keeps the reserve and what is promised: two segments, a sixteenth on small filesystems")
  func reserve() {
    var account = SpaceAccount()
    #expect(account.shouldAsk)
    account.learn(FileSpace(freeByteCount: 20 << 20, totalByteCount: 96 << 20))
    #expect(!account.shouldAsk)
    #expect(account.fits(14 << 20) && !account.fits(14 << 20 + 1))
    account.admit(10 << 20)
    #expect(account.fits(4 << 20) && !account.fits(4 << 20 + 1))
    account.admit(6 << 20)
    #expect(account.shouldAsk, "16 MiB were admitted since")
    account.release(16 << 20)
    account.learn(FileSpace(freeByteCount: 1 << 40, totalByteCount: 1 << 41))
    #expect(account.fits(1 << 40 - 128 << 20) && !account.fits(1 << 40 - 128 << 20 + 1))
    account.learn(.unlimited)
    account.admit(1 << 40)
    #expect(account.fits(1 << 50))
  }

  @Test("no batch, stored raw, takes more than was admitted for its writes", arguments: seeds(100))
  func worstCase(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    let layer = LayerKey(disk: DiskID(number: 1), generation: GenerationID(number: 1))
    var admitted = 0
    // Just below a multiple of 4 KiB nothing is rounded up that could hide what frames cost.
    let low: UInt64 = seed % 2 == 0 ? 7 : 0
    // Small and large, aligned and not, over one another, in a place that is small enough for that.
    let records = (0..<Int.random(in: 1...(seed % 3 == 0 ? 2 : 60), using: &random)).map { index in
      let longest: UInt64 = Bool.random(using: &random) ? 16 : 4096
      let count = UInt64.random(in: 1...longest, using: &random) | low
      let range = SectorRange(start: UInt64.random(in: 0...8192, using: &random), count: count)
      admitted += SpaceAccount.storedBytesMax(range)
      return Record(kind: .data, layer: layer, sequence: UInt64(index + 1), range: range)
    }
    let plan = BatchPlan(records, positions: records.map { $0.sequence << 32 })
    let group = plan.frames.reduce(CommitRecord.byteCount) { sum, frame in
      sum + (FrameHeader.byteCount(extents: frame.pieces.count) + frame.rawByteCount + 15) / 16 * 16
    }
    #expect((group + 4095) / 4096 * 4096 <= admitted)
  }
}
