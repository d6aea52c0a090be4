import ExtentJournal
import QEMUMonitor
import SpillwayService
import Testing

// Goal: `alive` is said of the very job that was first seen, and dead is for good.
// Method: answers and events in the orders that a monitor can send them.

private let name = "moment"
private let ours = "spillway-0f8fad5b-d9cb-469f-a165-70867728950e-vda"

private func job(_ status: String, _ id: String = name) throws -> QEMUJob {
  let text = """
    {"id": "\(id)", "status": "\(status)", "current-progress": 0, "total-progress": 1}
    """
  return try #require(JSONValue(parsing: Array(text.utf8))).decoded(as: QEMUJob.self)
}

private func event(_ status: String, _ id: String = name) -> QMPEvent {
  QMPEvent(name: "JOB_STATUS_CHANGE", data: ["id": .string(id), "status": .string(status)])
}

extension JobLiveness {
  fileprivate var isDead: Bool { if case .dead = state { true } else { false } }
  fileprivate var isUnknown: Bool { if case .unknown = state { true } else { false } }
}

@Suite struct JobLivenessTests {
  @Test(
    "a job lives while its filter is in place",
    arguments: ["running", "paused", "ready", "standby", "waiting", "pending"])
  func living(status: String) throws {
    var liveness = JobLiveness(job: name, wasSeen: false)
    liveness.note([], then: [])
    liveness.note([event("created"), event("running")], then: [try job("running", "another")])
    #expect(liveness.state == .awaited)
    liveness.note([event("created"), event("running")], then: [try job(status)])
    #expect(liveness.state == .alive)
    liveness.note([event("paused"), event("running", "another")], then: [try job(status)])
    #expect(liveness.state == .alive)
  }

  @Test("one that has ended is dead, however it is told", arguments: ["aborting", "concluded", "null"])
  func ended(status: String) throws {
    for isEvent in [false, true] {
      for wasAlive in [false, true] {
        var liveness = JobLiveness(job: name, wasSeen: false)
        if wasAlive { liveness.note([], then: [try job("running")]) }
        liveness.note(isEvent ? [event(status)] : [], then: isEvent ? [] : [try job(status)])
        #expect(liveness.isDead)
        liveness.note([], then: [try job("running")])
        #expect(liveness.isDead, "it came back")
      }
    }
    var gone = JobLiveness(job: name, wasSeen: false)
    gone.note([], then: [try job("running")])
    gone.note([], then: [])
    #expect(gone.isDead)
  }

  @Test(
    "a successor with its name between two questions does not pass for it",
    arguments: [nil, .successorJob] as [PlantedBug?])
  func successor(bug: PlantedBug?) throws {
    let histories: [[QMPEvent]?] = [
      [event("aborting"), event("concluded"), event("null"), event("created"), event("running")],
      [event("created"), event("running")],
      [QMPEvent(name: "BLOCK_JOB_CANCELLED", data: ["device": .string(name)])],
      nil,
    ]
    for events in histories {
      var liveness = JobLiveness(job: name, wasSeen: false)
      liveness.hooks.bug = bug
      liveness.note([], then: [try job("running")])
      liveness.note(events, then: [try job("running")])
      #expect(liveness.isDead == (bug == nil), "\(String(describing: events))")
    }
    var lost = JobLiveness(job: name, wasSeen: false)
    lost.hooks.bug = bug
    lost.note([], then: [try job("running")])
    lost.loseMonitor("gone")
    lost.note([], then: [try job("running")])
    #expect(lost.isDead == (bug == nil))
  }

  @Test("a foreign job that an earlier daemon saw is dead; one of ours is asked about")
  func seenBefore() throws {
    #expect(JobLiveness(job: name, wasSeen: true).isDead)
    var liveness = JobLiveness(job: ours, wasSeen: true)
    #expect(liveness.isUnknown)
    liveness.loseMonitor("not there yet")
    #expect(liveness.isUnknown)
    liveness.note([], then: [try job("running", ours)])
    #expect(liveness.state == .alive)
    liveness.loseMonitor("again")
    #expect(liveness.isUnknown)
    liveness.note([], then: [])
    #expect(liveness.isDead)
  }

  @Test("losing the monitor before the job was seen changes nothing")
  func lostEarly() throws {
    var liveness = JobLiveness(job: name, wasSeen: false)
    liveness.loseMonitor("gone")
    #expect(liveness.state == .awaited)
    liveness.note(nil, then: [try job("running")])
    #expect(liveness.state == .alive)
  }

  @Test("only spillway-UUID-DISK is an id of ours")
  func names() {
    #expect(JobLiveness.isOurs(ours))
    let others = [
      name, "spillway-vda", "spillway-0f8fad5b-d9cb-469f-a165-70867728950e",
      "spillway-0f8fad5b-d9cb-469f-a165-70867728950e-", "spillway-0f8fad5bxd9cb-469f-a165-70867728950e-vda",
      "x" + ours,
    ]
    for other in others { #expect(!JobLiveness.isOurs(other), "\(other)") }
  }
}
