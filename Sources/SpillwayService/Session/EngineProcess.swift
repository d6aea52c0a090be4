internal import Bytes
internal import Glibc
internal import NBDServer
internal import Threads

/// The engine of a session, as its parent sees it: one process after the other, all of them serving the same sockets.
final class EngineProcess: @unchecked Sendable {
  // Sendable: constants; `child` and `link` are used by the parent's main thread only.
  private let plan: SessionPlan
  private let ingest: HeldSocket
  private let lockDescriptor: Int32
  private let onEnd: @Sendable () -> Void
  private var child: ChildProgram?
  private var link: EngineLink?

  /// How the engine finds what it inherits.
  enum Inherited {
    static let ingest: Int32 = 3
    static let link: Int32 = 4
    static let lock: Int32 = 5
  }

  /// An engine that has not been started. `onEnd` runs on a thread of ours whenever a process of it ends.
  init(_ plan: SessionPlan, ingest: HeldSocket, record: SessionRecord, onEnd: @escaping @Sendable () -> Void)
  {
    self.plan = plan
    self.ingest = ingest
    lockDescriptor = record.lockDescriptor
    self.onEnd = onEnd
  }

  /// As the other, with a time from now.
  func start(within seconds: UInt64) throws(ServiceError) -> String? {
    try start(until: MonotonicClock.nanoseconds() + seconds * 1_000_000_000)
  }

  /// Starts a process and waits for its line, until `deadline` (nanoseconds of MonotonicClock): nil when none came (what
  /// is left of it is for `kill`).
  func start(until deadline: UInt64) throws(ServiceError) -> String? {
    let (ours, its) = try EngineLink.pair()
    let link = try EngineLink(ours)
    self.link = link
    var start = ChildProgram.Start("/proc/self/exe", ["engine", plan.runtimeDirectory])
    start.name = "spillway"
    start.descriptors = [
      (ingest.descriptor, Inherited.ingest), (its, Inherited.link), (lockDescriptor, Inherited.lock),
    ]
    start.isDetached = true
    do throws(ServiceError) { child = try ChildProgram(start, purpose: "the engine", onEnd: onEnd) } catch {
      close(its)
      throw error
    }
    // Before the wait: while we hold it too, the end of a process that dies at once would not be heard.
    close(its)
    return link.waitUntilReady(deadline: deadline)
  }

  /// Whether no process of it runs.
  var hasEnded: Bool { child?.hasEnded ?? true }

  /// Its process id, for the log.
  var processID: Int32 { child?.processID ?? 0 }

  /// Makes sure that it is gone.
  func kill() {
    child?.kill()
    finish()
  }

  /// Waits for its end; its exit status.
  @discardableResult
  func finish() -> Int32 {
    let status = child?.finish() ?? 0
    link?.end()
    child = nil
    link = nil
    return status
  }
}
