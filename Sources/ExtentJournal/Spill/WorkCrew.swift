internal import Threads

/// A few threads that do the same thing to many items: compression is the one part of a spill that needs more than
/// one core. The caller works too, so a crew of one core has no such thread of its own.
///
/// They run in the background: they give way to the threads that acknowledge writes, after each item, and on a busy machine to everybody.
/// So there are as many more that do not, and that help when a job is urgent: when somebody waits for its end.
final class WorkCrew: @unchecked Sendable {
  // Sendable: every variable is guarded by `lock`.
  private let lock = Lock()
  private let work: Condition
  /// For those that help only: nobody wakes them for work that has time, since waking is what they would do it with.
  private let urgentWork: Condition
  private let done: Condition
  private var job: (@Sendable (_ item: Int, _ worker: Int) -> Void)?
  private var itemCount = 0
  private var nextItem = 0
  private var unfinished = 0
  private var jobIsUrgent = false
  private var isEnding = false
  private var threads: [WorkerThread] = []

  /// How many workers there are: the caller, those of the background and those that help.
  let workerCount: Int

  /// A crew for `coreCount` processors.
  init(coreCount: Int) {
    let backgroundCount = max(coreCount, 1)
    workerCount = 2 * backgroundCount
    work = Condition(lock)
    urgentWork = Condition(lock)
    done = Condition(lock)
    for worker in 1..<workerCount {
      let helps = worker >= backgroundCount
      // With fewer threads than asked for the others do more.
      if let thread = WorkerThread(
        name: "compress-\(worker)", isBackground: !helps, { self.serve(worker, helps: helps) })
      {
        threads.append(thread)
      }
    }
  }

  /// Calls `body(item, worker)` once for each item and returns when all are done. One call at a time; no two calls
  /// with the same worker number run at once.
  func perform(
    _ count: Int, isUrgent: Bool, _ body: @escaping @Sendable (_ item: Int, _ worker: Int) -> Void
  ) {
    lock.lock()
    jobIsUrgent = isUrgent
    job = body
    itemCount = count
    nextItem = 0
    unfinished = count
    if count > 1 {
      work.broadcast()
      if isUrgent { urgentWork.broadcast() }
    }
    drain(worker: 0)
    while unfinished > 0 { done.wait() }
    job = nil
    lock.unlock()
  }

  /// Ends the threads.
  func end() {
    lock.withLock {
      isEnding = true
      work.broadcast()
      urgentWork.broadcast()
    }
    for thread in threads { thread.join() }
    threads = []
  }

  private func serve(_ worker: Int, helps: Bool) {
    lock.lock()
    while !isEnding {
      if !helps || jobIsUrgent { drain(worker: worker) }
      guard !isEnding else { break }
      if helps { urgentWork.wait() } else { work.wait() }
    }
    lock.unlock()
  }

  /// Takes items until there are none; called and left with the lock held.
  private func drain(worker: Int) {
    while let job, nextItem < itemCount {
      let item = nextItem
      nextItem += 1
      let isUrgent = jobIsUrgent
      lock.unlock()
      job(item, worker)
      if !isUrgent { WorkerThread.giveWay() }
      lock.lock()
      unfinished -= 1
      if unfinished == 0 { done.signal() }
    }
  }
}
