internal import CSupport
internal import Glibc

/// One of our own threads: blocking calls (files, sockets, compression) run here and never on Swift's
/// shared pool.
///
/// Whoever starts a thread joins it: `join` waits for the end of the body.
package final class WorkerThread: Sendable {
  private let handle: pthread_t

  /// Bytes of stack: enough for our deepest call and small enough for thousands of threads, since only
  /// touched pages are real.
  package static let stackByteCount = 512 * 1024

  /// Starts a thread that runs `body`. `name` (15 bytes kept) is what `top -H` shows. A background thread gives
  /// way to others when the processors are busy (nice 10). Returns nil when the system has no thread left.
  package init?(name: String, isBackground: Bool = false, _ body: @escaping @Sendable () -> Void) {
    let box = unsafe Unmanaged.passRetained(Entry(name: name, isBackground: isBackground, body: body))
    var attributes = pthread_attr_t()
    unsafe pthread_attr_init(&attributes)
    unsafe pthread_attr_setstacksize(&attributes, Self.stackByteCount)
    var thread = pthread_t()
    // SAFETY: the box is retained for the new thread, which takes it over first thing; if there is no new
    // thread it is released below.
    let code = unsafe pthread_create(
      &thread, &attributes,
      { raw in
        let entry = unsafe Unmanaged<Entry>.fromOpaque(raw!).takeRetainedValue()
        unsafe entry.name.withCString { unsafe spw_name_thread($0) }
        // On Linux this is the calling thread's own. Being refused costs latency, not correctness.
        if entry.isBackground { setpriority(Int32(PRIO_PROCESS.rawValue), 0, 10) }
        entry.body()
        return nil
      }, box.toOpaque())
    unsafe pthread_attr_destroy(&attributes)
    guard code == 0 else {
      unsafe box.release()
      return nil
    }
    handle = thread
  }

  /// Lets whoever wants the processor of the calling thread have it first (sched_yield(2)).
  ///
  /// Background threads call it between pieces of work of a fraction of a millisecond. Being nice is not enough: Linux since 6.6 (EEVDF)
  /// lets a nice thread go on until the next tick, up to 4 ms, while one that was just woken waits, whatever their priorities are,
  /// if that one has lately had more than its share.
  package static func giveWay() { sched_yield() }

  /// Waits until the body has returned. Call it exactly once, and never from the thread itself.
  package func join() {
    pthread_join(handle, nil)
  }

  private final class Entry: Sendable {
    let name: String
    let isBackground: Bool
    let body: @Sendable () -> Void
    init(name: String, isBackground: Bool, body: @escaping @Sendable () -> Void) {
      self.name = name
      self.isBackground = isBackground
      self.body = body
    }
  }
}
