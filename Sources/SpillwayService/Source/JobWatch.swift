package import ExtentJournal
internal import QEMUMonitor
internal import Threads

// Who asks the monitor about jobs.
//
// One thread has the conversation. Whoever needs an answer takes part in the next question: one that is under way was
// perhaps asked too early for him. So any number of reads that end meanwhile share one round trip, and
// 1. the answer that `confirm` returns was asked for after it was called;
// 2. `alive` is published only after the journal has recorded that the job was seen, so that a daemon that follows
//    does not wait for a job that has gone;
// 3. every change of state is followed by `sourceChanged`, without a lock held.

/// Watches the jobs of one monitor.
package final class JobWatch: @unchecked Sendable {
  // Sendable: `connection`, `lostSince` and `lastLoss` are the thread's; everything else mutable is guarded by `lock`.
  private let path: String
  let log: JournalLog
  let lock = Lock()
  private let changed: Condition
  private(set) var jobs: [WatchedJob] = []
  private var begun: UInt64 = 0
  private var wanted: UInt64 = 0
  private var answered: UInt64 = 0
  private var pollTime: UInt64 = 0
  private var retryTime: UInt64 = 0
  /// Why the last question got no answer.
  private var silence: String?
  private var isEnding = false
  private var waiting = 0
  private var thread: WorkerThread?

  private var connection: QMPConnection?
  private var lostSince: UInt64?

  /// How long reads wait for a monitor that was lost.
  private static let reconnectNanoseconds: UInt64 = 5_000_000_000
  private static let retryNanoseconds: UInt64 = 200_000_000
  /// How long a read waits for an answer at all.
  private static let patienceNanoseconds: UInt64 = 12_000_000_000
  private static let awaitedPollNanoseconds: UInt64 = 100_000_000
  private static let livingPollNanoseconds: UInt64 = 1_000_000_000

  /// A watch over the monitor at `path`, which has not been spoken to.
  package init(monitor path: String, log: @escaping JournalLog) {
    self.path = path
    self.log = log
    changed = Condition(lock)
  }

  /// Adds a job, before `start`.
  package func add(_ job: WatchedJob) { lock.withLock { jobs.append(job) } }

  /// Begins to ask. The monitor must be there if a job has yet to be seen; otherwise it may come later.
  package func start() throws(ServiceError) {
    let isAwaiting = lock.withLock { jobs.contains { $0.liveness.state == .awaited } }
    do throws(QMPError) { try connect() } catch {
      if isAwaiting { throw .failed("\(error); is qemu running, and has no other client the monitor?") }
      lose(error)
    }
    thread = WorkerThread(name: "job-watch") { self.loop() }
    guard thread != nil else { throw .failed("no thread left for the monitor; raise the limit on processes") }
  }

  /// Answers nobody any more: whoever waits is told that nothing is known.
  package func stopAnswering() {
    lock.withLock {
      isEnding = true
      changed.broadcast()
    }
  }

  /// Gives jobs their speed back and ends the conversation.
  package func stop() {
    stopAnswering()
    thread?.join()
    thread = nil
  }

  // MARK: - What reads ask

  /// What was last known of `job`.
  package func state(of job: WatchedJob) -> SourceState { lock.withLock { job.liveness.state } }

  /// What `job` is, asked from here on. Waits for the answer.
  package func confirm(_ job: WatchedJob) -> SourceState {
    lock.lock()
    defer { lock.unlock() }
    let deadline = MonotonicClock.nanoseconds() + Self.patienceNanoseconds
    let turn = begun + 1
    wanted = max(wanted, turn)
    waiting += 1
    defer { waiting -= 1 }
    changed.broadcast()
    while answered < turn {
      if case .dead = job.liveness.state { return job.liveness.state }
      if isEnding { return .unknown("the daemon is stopping") }
      guard changed.wait(until: deadline) else { return .unknown("the monitor does not answer") }
    }
    if case .dead = job.liveness.state { return job.liveness.state }
    return silence.map { .unknown($0) } ?? job.liveness.state
  }

  /// How many wait for an answer.
  package var waitingCount: Int { lock.withLock { waiting } }

  /// A read of the job's source begins: the job's own copying is to yield.
  package func beginRead(of job: WatchedJob) {
    lock.withLock {
      job.throttle.beginRead()
      if job.throttle.lowered == nil, job.throttle.isWorthwhile {
        pollTime = 0
        changed.broadcast()
      }
    }
  }

  /// A read of the job's source has ended.
  package func endRead(of job: WatchedJob) {
    lock.withLock { job.throttle.endRead(at: MonotonicClock.nanoseconds()) }
  }

  // MARK: - The conversation

  private func loop() {
    while let turn = next() { finish(turn, wasAnswered: ask()) }
    if let connection { restoreSpeeds(connection) }
    connection = nil
  }

  /// Waits until there is something to ask; nil at the end.
  private func next() -> UInt64? {
    lock.lock()
    defer { lock.unlock() }
    while !isEnding {
      let now = MonotonicClock.nanoseconds()
      let due = wanted > answered ? min(pollTime, retryTime) : max(pollTime, retryTime)
      if now >= due {
        begun += 1
        return begun
      }
      _ = changed.wait(until: due)
    }
    return nil
  }

  private func finish(_ turn: UInt64, wasAnswered: Bool) {
    let isLost = lostSince.map { MonotonicClock.nanoseconds() >= $0 + Self.reconnectNanoseconds } ?? false
    lock.withLock {
      let now = MonotonicClock.nanoseconds()
      if wasAnswered || isLost { answered = turn }
      retryTime = wasAnswered ? 0 : now + Self.retryNanoseconds
      let isAwaiting = jobs.contains { $0.liveness.state == .awaited }
      let isWanted = jobs.contains { $0.throttle.isWanted(at: now) }
      pollTime = now + (isAwaiting || isWanted ? Self.awaitedPollNanoseconds : Self.livingPollNanoseconds)
      for job in jobs { if let time = job.throttle.restoreTime { pollTime = min(pollTime, max(now, time)) } }
      if !jobs.contains(where: \.needsMonitor) { pollTime = now + 3600 * 1_000_000_000 }
      changed.broadcast()
    }
  }

  /// One question, and what follows from the answer. False when there was none, and there may be one later.
  private func ask() -> Bool {
    let jobs = lock.withLock { self.jobs }
    guard lock.withLock({ jobs.contains(where: \.needsMonitor) }) else {
      connection = nil
      return true
    }
    let connection: QMPConnection
    let answer: [QEMUJob]
    do throws(QMPError) {
      connection = try connect()
      answer = try connection.execute("query-jobs", as: [QEMUJob].self)
    } catch .timedOut(let what) {
      lock.withLock { silence = "the monitor sent no \(what) in time" }
      return true
    } catch {
      lose(error)
      return false
    }
    let now = MonotonicClock.nanoseconds()
    let events = connection.takeEvents()
    for job in jobs {
      change(job) { $0.note(events, then: answer) }
      if let progress = answer.first(where: { $0.id == job.id })?.currentProgress {
        lock.withLock { job.throttle.note(progress: progress, at: now) }
      }
    }
    lock.withLock { silence = nil }
    do throws(QMPError) {
      for job in jobs { try steer(job, answer.contains { $0.id == job.id }, connection) }
    } catch {
      lose(error)
    }
    return true
  }

  @discardableResult
  private func connect() throws(QMPError) -> QMPConnection {
    if let connection { return connection }
    let fresh = try QMPConnection(connectingTo: path, timeout: .seconds(5))
    if lostSince != nil { log(.info, "the monitor at \(path) answers again") }
    lostSince = nil
    connection = fresh
    return fresh
  }

  private func lose(_ error: QMPError) {
    connection = nil
    if lostSince == nil {
      lostSince = MonotonicClock.nanoseconds()
      log(.warning, "\(error)")
    }
    for job in lock.withLock({ jobs }) { change(job) { $0.loseMonitor("\(error)") } }
  }

  /// Makes a change of what is known of `job`, in the order that the note at the top asks for.
  private func change(_ job: WatchedJob, _ body: (inout JobLiveness) -> Void) {
    let before = lock.withLock { job.liveness }
    var after = before
    body(&after)
    guard after.state != before.state else { return }
    if after.state == .alive {
      do throws(JournalError) { try job.disk.recordSeenJob(job.id) } catch {
        return log(.error, "that job \(job.id) was seen could not be recorded: \(error.message)")
      }
    }
    lock.withLock {
      job.liveness = after
      changed.broadcast()
    }
    switch after.state {
    case .alive:
      log(.info, "job \(job.id) lives: what has not arrived of \(job.disk.name) is read from the source")
    case .dead(let reason): log(.warning, "the source of \(job.disk.name) is not read any more: \(reason)")
    case .awaited, .unknown: break
    }
    job.disk.sourceChanged()
  }
}
