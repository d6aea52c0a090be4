import ExtentJournal
import Testing

// Goal: the horizon moves as far as the limit lets it, and no further; every other sequence is refused with its neighbours.
// Method: the pure parts, with marks and ends made up.

@Suite struct HorizonTests {
  private func marks(_ count: UInt64, segmentBytes: UInt64 = 1000) -> HorizonMarks {
    var marks = HorizonMarks()
    for index in 1...count {
      // Two commits a segment, one in its middle and one at its end.
      marks.add(
        HorizonMarks.Mark(
          sequence: index * 10, segment: (index + 1) / 2,
          offset: index % 2 == 1 ? segmentBytes / 2 : segmentBytes,
          timeNanoseconds: index * 100))
    }
    return marks
  }

  @Test("without a limit the horizon follows the last commit, and with all it stays")
  func ends() {
    #expect(marks(6).target(.none, now: 0, sizes: [:])?.sequence == 60)
    #expect(marks(6).target(.all, now: .max, sizes: [:]) == nil)
    #expect(HorizonMarks().target(.none, now: 0, sizes: [:]) == nil)
  }

  @Test("by time it is the newest commit that is old enough")
  func byTime() {
    let marks = marks(6)
    for (now, expected) in [(99, nil), (349, nil), (350, 10), (449, 10), (450, 20), (5000, 60)]
      as [(UInt64, UInt64?)]
    {
      #expect(marks.target(.nanoseconds(250), now: now, sizes: [:])?.sequence == expected, "at \(now)")
    }
  }

  @Test("by bytes there is at least as much behind it, and not behind the next commit")
  func byBytes() {
    let marks = marks(6)
    // The third segment has grown since its last commit; the fourth takes moved data and does not count.
    let sizes: [UInt64: UInt64] = [1: 1000, 2: 1000, 3: 1200]
    func behind(_ mark: HorizonMarks.Mark) -> UInt64 {
      sizes.filter { $0.key > mark.segment }.values.reduce(0, +) + sizes[mark.segment]! - mark.offset
    }
    for wanted in stride(from: 0, through: 3000, by: 50) as StrideThrough<UInt64> {
      let target = marks.target(.bytes(wanted), now: 0, sizes: sizes)
      #expect(target == marks.marks.last { behind($0) >= wanted }, "\(wanted)")
    }
    #expect(marks.target(.bytes(1200), now: 0, sizes: [3: 1200])?.sequence == 40, "segments 1 and 2 are gone")
  }

  @Test("marks are thinned out and keep the newest; what the segments tell comes before them")
  func thinning() {
    var marks = HorizonMarks()
    let count = UInt64(3 * HorizonMarks.countMax)
    for sequence in 1...count {
      marks.add(HorizonMarks.Mark(sequence: sequence, segment: 1, offset: 0, timeNanoseconds: sequence))
    }
    #expect(marks.marks.count <= HorizonMarks.countMax && marks.marks.last?.sequence == count)
    #expect(zip(marks.marks, marks.marks.dropFirst()).allSatisfy { $0.sequence < $1.sequence })
    marks.forget(through: count - 1)
    marks.prepend(
      [5, count].map { HorizonMarks.Mark(sequence: $0, segment: 1, offset: 0, timeNanoseconds: 0) })
    #expect(marks.marks.map(\.sequence) == [5, count])
  }

  @Test("a sequence that ends no batch is refused with its neighbours")
  func neighbours() throws {
    let ends = BatchEnds(
      horizon: Horizon(sequence: 20, timeNanoseconds: 900),
      found: [(30, 1000), (10, 100), (20, 200), (45, 2000), (45, 2500)].map {
        BatchEnd(sequence: $0.0, timeNanoseconds: $0.1)
      })
    #expect(ends.ends.map { $0.sequence } == [20, 30, 45])
    #expect(ends.ends.map(\.timeNanoseconds) == [200, 1000, 2000])
    for sequence in 0...60 as ClosedRange<UInt64> {
      let words: [String]
      switch sequence {
      case 20, 30, 45: words = []
      case ..<20: words = ["before the horizon", "20"]
      case ..<30: words = ["20 and 30"]
      case ..<45: words = ["30 and 45"]
      default: words = ["not written yet", "45"]
      }
      do {
        try ends.require(sequence)
        #expect(words.isEmpty, "\(sequence)")
      } catch {
        #expect(!words.isEmpty && words.allSatisfy { error.message.contains($0) }, "\(error.message)")
      }
    }
    #expect(try ends.last(at: 999).sequence == 20)
    #expect(try ends.last(at: 1000).sequence == 30)
    #expect(try ends.last(at: .max).sequence == 45)
    #expect(failure { _ = try ends.last(at: 199) } == .usage)
  }
}
