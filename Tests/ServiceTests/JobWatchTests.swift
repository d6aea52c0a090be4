import ExtentJournal
import Glibc
import Peers
import SpillwayService
import TestKit
import Testing
import Threads

// Goal: what a read is told of a job was asked for after the read had ended, by as few questions as that allows.
// Method: a monitor of our own holds its answers, goes away and comes back when the test says so.

private let ours = "spillway-0f8fad5b-d9cb-469f-a165-70867728950e-vda"

@Suite struct JobWatchTests {
  private let directory: TemporaryDirectory
  private let journal: Journal
  private let monitor: FakeMonitor
  private let watch: JobWatch

  init() throws {
    directory = try TemporaryDirectory()
    var options = JournalOptions()
    options.spoolDirectory = directory.path
    options.spoolByteCount = 16 << 20
    journal = try Journal.open(directory.file("j"), options: options) { _, _ in }
    _ = try journal.disk("vda", byteCount: 1 << 20, mode: .snapshot)
    monitor = try FakeMonitor(at: directory.file("qmp.sock"))
    watch = JobWatch(monitor: monitor.path) { _, _ in }
  }

  /// Watches the job `id`, and runs `body` until the watch has stopped.
  private func watching(_ id: String, _ body: (WatchedJob) throws -> Void) throws {
    let job = WatchedJob(id, of: journal.disks[0])
    watch.add(job)
    try watch.start()
    defer {
      monitor.release()
      watch.stop()
      journal.abandon()
    }
    try body(job)
  }

  @Test("a question under way is not the answer to reads that end meanwhile; they share the next")
  func sharing() throws {
    monitor.setJobs(("moment", "running"))
    try watching("moment") { job in
      #expect(watch.confirm(job) == .alive)
      monitor.hold()
      let before = monitor.questionCount
      let early = Answers()
      early.ask(1, watch, job)
      monitor.wait(forQuestions: before + 1)
      // The answer that says `running` is made. Now the job goes, and nine more reads end.
      monitor.setJobs()
      let late = Answers()
      late.ask(9, watch, job)
      while watch.waitingCount < 10 { sched_yield() }
      #expect(late.all.isEmpty)
      monitor.release()
      for answer in late.wait(for: 9) {
        if case .dead = answer { continue }
        Issue.record("a read was told \(answer)")
      }
      #expect(monitor.questionCount == before + 2)
      _ = early.wait(for: 1)
    }
  }

  @Test("that a job lives is recorded before anybody is told")
  func recorded() throws {
    try watching("moment") { job in
      #expect(watch.confirm(job) == .awaited)
      #expect(job.disk.seenJob == nil)
      monitor.setJobs(("moment", "running"))
      #expect(watch.confirm(job) == .alive)
      #expect(job.disk.seenJob == "moment")
    }
  }

  @Test(
    "a monitor that comes back is asked again about a job of ours; a foreign one is dead",
    arguments: [true, false])
  func comingBack(isOurs: Bool) throws {
    let id = isOurs ? ours : "moment"
    monitor.setJobs((id, "running"))
    try watching(id) { job in
      #expect(watch.confirm(job) == .alive)
      monitor.goAway()
      let answers = Answers()
      answers.ask(3, watch, job)
      if isOurs {
        while watch.waitingCount < 3 { sched_yield() }
        try monitor.comeBack()
        #expect(answers.wait(for: 3) == [.alive, .alive, .alive])
      } else {
        try monitor.comeBack()
        for answer in answers.wait(for: 3) {
          if case .dead = answer { continue }
          Issue.record("a read was told \(answer)")
        }
      }
    }
  }

  @Test("a daemon that stops keeps nobody waiting for a monitor that is silent")
  func stopping() throws {
    monitor.setJobs(("moment", "running"))
    try watching("moment") { job in
      #expect(watch.confirm(job) == .alive)
      monitor.hold()
      let answers = Answers()
      answers.ask(2, watch, job)
      while watch.waitingCount < 2 { sched_yield() }
      watch.stopAnswering()
      for answer in answers.wait(for: 2) { #expect(answer != .alive) }
    }
  }

  @Test("a monitor that is not there is an error while a job has yet to be seen")
  func missing() throws {
    monitor.goAway()
    watch.add(WatchedJob("moment", of: journal.disks[0]))
    let error = #expect(throws: ServiceError.self) { try watch.start() }
    #expect(error?.status == .failed && error?.message.contains(monitor.path) == true)
    journal.abandon()
  }
}

/// What threads were told that asked.
private final class Answers: @unchecked Sendable {
  // Sendable: guarded by `lock`.
  private let lock = Lock()
  private let changed: Condition
  private var states: [SourceState] = []
  private var threads: [WorkerThread] = []

  init() { changed = Condition(lock) }
  deinit { for thread in threads { thread.join() } }

  func ask(_ count: Int, _ watch: JobWatch, _ job: WatchedJob) {
    for _ in 0..<count {
      let thread = WorkerThread(name: "asks") { [unowned self] in
        let state = watch.confirm(job)
        lock.withLock {
          states.append(state)
          changed.broadcast()
        }
      }
      if let thread { threads.append(thread) }
    }
  }

  var all: [SourceState] { lock.withLock { states } }

  func wait(for count: Int) -> [SourceState] {
    lock.withLock {
      while states.count < count { changed.wait() }
      return states
    }
  }
}
