import ExtentJournal
import Testing

// Goal: compression gives way when somebody waits for it, and only then.
// Method: the pure function at its edges.

@Suite("how much work a frame gets")
struct LevelLadderTests {
  private func effort(_ percent: UInt64, flush: Int = 0, diskHasWaited: Bool = true) -> PackingEffort {
    LevelLadder.effort(used: percent, capacity: 100, flushByteCount: flush, diskHasWaited: diskHasWaited)
  }

  @Test("the fuller the ring, the less, but never none, and with more hands in the last quarter")
  func ladder() {
    let efforts = [0, 24, 25, 49, 50, 74, 75, 100].map { effort($0) }
    #expect(efforts.map(\.level) == [3, 3, 1, 1, -1, -1, -5, -5])
    #expect(efforts.map(\.isUrgent) == [false, false, false, false, false, false, true, true])
  }

  @Test(
    "least while a FLUSH waits for much and the disk for the packers; one with a shallow ring costs no bytes")
  func flush() {
    let shallow = LevelLadder.flushShallowByteCount
    #expect(effort(100, flush: shallow + 1) == PackingEffort(level: -5, isUrgent: true))
    #expect(effort(10, flush: shallow + 1) == PackingEffort(level: -5, isUrgent: true))
    #expect(effort(10, flush: shallow) == PackingEffort(level: 3, isUrgent: true))
    #expect(effort(100, flush: shallow + 1, diskHasWaited: false) == PackingEffort(level: -5, isUrgent: true))
  }
}
