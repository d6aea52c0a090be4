import Bytes
import ExtentJournal
import TestKit
import Testing

// Goal: the checks of generations would notice if a rule were broken. (That a seal is durable: GenerationCrashTests.)
// Method: each runs as it is, and with the bug planted.

@Suite struct GenerationBugTests {
  typealias Setup = GenerationSetup

  private func hooks(_ bug: PlantedBug?) -> TestHooks {
    var hooks = TestHooks()
    hooks.bug = bug
    return hooks
  }

  @Test(
    "what has arrived stays when the bitmap is recorded", arguments: [nil, .baseOverArrived] as [PlantedBug?])
  func arrivedStays(bug: PlantedBug?) throws {
    let setup = try Setup(hooks: hooks(bug))
    try setup.full("monday")
    let disk = try setup.journal.begin("d", GenerationRequest(name: "t", kind: .incremental, base: "monday"))
    try setup.write(3..<5, 2, to: disk)
    try disk.fallToBase([Setup.range(0..<16)])
    let isRight = try setup.versions("t") == [1, 1, 1, 2, 2, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    #expect(isRight == (bug == nil))
  }

  @Test("what falls to the base is read from the base", arguments: [nil, .baseOfBaseRead] as [PlantedBug?])
  func rightBase(bug: PlantedBug?) throws {
    let setup = try Setup(hooks: hooks(bug))
    try setup.full("monday")
    let tuesday = try setup.incremental("tuesday", on: "monday", bitmap: 2..<4)
    try setup.write(2..<4, 2, to: tuesday)
    try tuesday.seal()
    _ = try setup.incremental("wednesday", on: "tuesday", bitmap: 8..<9)
    let isRight = try setup.view("wednesday", 2..<3) == Setup.content(2, 2)
    #expect(isRight == (bug == nil))
  }
}
