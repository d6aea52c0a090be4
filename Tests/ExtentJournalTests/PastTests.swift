import Bytes
import ExtentJournal
import Foundation
import TestKit
import Testing

// Goal: every end of a batch from the horizon on is read exactly as it was, whatever upkeep frees, moves and compresses,
// through kills and power losses; and any other sequence is refused with its neighbours.
// Method: random histories of one disk against a model that remembers the disk after each record (PastMachine). After each
// step some points in time are compared, readers of others stay open over the steps, and what is counted as live is
// counted again. Each rule of history is broken once, and must be missed.

@Suite struct PastTests {
  private static func limit(_ seed: UInt64) -> HistoryLimit {
    switch seed / 4 % 6 {
    case 0: HistoryLimit.none
    case 1: .all
    case 2: .bytes(24 << 10)
    case 3: .bytes(48 << 10)
    case 4: .bytes(100 << 10)
    default: .bytes(200 << 10)
    }
  }

  @Test("every end of a batch behind the horizon is read as it was", arguments: 0..<4)
  func histories(share: Int) {
    let all = seeds(40)
    var compared = 0
    var done = UpkeepReport()
    for seed in all where Int(seed % 4) == share {
      do {
        let machine = try PastMachine(
          seed: seed, limit: Self.limit(seed), pagesMax: seed % 5 == 0 ? 300 : nil)
        for step in 0..<120 {
          try machine.step()
          if step % 6 == 5 { try machine.check("step \(step)") }
        }
        try machine.check("the end", isThorough: true)
        compared += machine.compared
        done.unlinkedSegments += machine.upkeep.unlinkedSegments
        done.punchedRuns += machine.upkeep.punchedRuns
        done.movedFrames += machine.upkeep.movedFrames
        done.reencodedFrames += machine.upkeep.reencodedFrames
        done.recompressedFrames += machine.upkeep.recompressedFrames
        done.movedRecords += machine.upkeep.movedRecords
      } catch {
        Issue.record(
          """
          \(error)
          run it again: SPILLWAY_TEST_SEED=\(seed) swift test --disable-xctest --filter PastTests/histories
          """)
      }
    }
    print("share \(share): \(compared) compared, \(done)")
    if all.count >= 40 {
      #expect(compared > 200 && done.unlinkedSegments > 0 && done.punchedRuns > 0 && done.movedFrames > 0)
    }
  }

  @Test(
    "the histories notice a broken rule",
    arguments: [
      (.pastNotHeld, 1), (.pastRecordsForgotten, 1), (.pastSegmentsTouched, 1), (.pastFramesMoved, 101),
    ] as [(PlantedBug, UInt64)])
  func bugs(bug: PlantedBug, first: UInt64) throws {
    for seed in first...first + 400 {
      do {
        let machine = try PastMachine(seed: seed, limit: Self.limit(seed), bug: bug, hasMishaps: false)
        for step in 0..<120 {
          try machine.step()
          if step % 6 == 5 { try machine.check("step \(step)") }
        }
      } catch let violation as Violation {
        print("\(bug): noticed at seed \(seed): \(violation)")
        return
      }
    }
    Issue.record("the histories went by and none noticed \(bug)")
  }
}
