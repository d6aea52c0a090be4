internal import CSupport
internal import Glibc

/// A mutual-exclusion lock over a pthread mutex.
///
/// pthread and not `Synchronization.Mutex`: ThreadSanitizer cannot see the latter's futex and reports false
/// races for everything it guards, and it has no condition variable. Hold it for memory work only: no I/O, no
/// call-outs, no waiting but on a `Condition` of this lock. Who finds it taken looks again for a moment before it sleeps, since waking
/// takes longer than most holders need.
@safe
@usableFromInline
package final class Lock: @unchecked Sendable {
  // Sendable: a pthread mutex is made to be shared.
  fileprivate let mutex: UnsafeMutablePointer<pthread_mutex_t>

  /// An unlocked lock.
  package init() {
    unsafe mutex = .allocate(capacity: 1)
    var attributes = pthread_mutexattr_t()
    unsafe pthread_mutexattr_init(&attributes)
    unsafe pthread_mutexattr_settype(&attributes, spw_MUTEX_ADAPTIVE)
    let code = unsafe pthread_mutex_init(mutex, &attributes)
    precondition(code == 0, "pthread_mutex_init failed")
    unsafe pthread_mutexattr_destroy(&attributes)
  }

  deinit {
    unsafe pthread_mutex_destroy(mutex)
    unsafe mutex.deallocate()
  }

  /// Waits for the lock and takes it. Not recursive.
  @usableFromInline
  package func lock() {
    let code = unsafe pthread_mutex_lock(mutex)
    precondition(code == 0, "pthread_mutex_lock failed")
  }

  /// Gives the lock back. Only its holder may.
  @usableFromInline
  package func unlock() {
    let code = unsafe pthread_mutex_unlock(mutex)
    precondition(code == 0, "pthread_mutex_unlock failed")
  }

  /// Runs `body` while holding the lock.
  @inlinable
  package func withLock<Result: ~Copyable, Failure: Error>(
    _ body: () throws(Failure) -> Result
  ) throws(Failure) -> Result {
    lock()
    defer { unlock() }
    return try body()
  }
}

/// A condition variable of one lock, on the monotonic clock.
@safe
package final class Condition: @unchecked Sendable {
  // Sendable: a pthread condition is made to be shared.
  private let condition: UnsafeMutablePointer<pthread_cond_t>
  private let lock: Lock

  /// A condition on what `lock` guards.
  package init(_ lock: Lock) {
    self.lock = lock
    unsafe condition = .allocate(capacity: 1)
    var attributes = pthread_condattr_t()
    unsafe pthread_condattr_init(&attributes)
    unsafe pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
    let code = unsafe pthread_cond_init(condition, &attributes)
    precondition(code == 0, "pthread_cond_init failed")
    unsafe pthread_condattr_destroy(&attributes)
  }

  deinit {
    unsafe pthread_cond_destroy(condition)
    unsafe condition.deallocate()
  }

  /// Gives the lock back, waits to be woken (or for nothing: check again) and takes the lock again.
  package func wait() {
    unsafe pthread_cond_wait(condition, lock.mutex)
  }

  /// As `wait`, but no later than `deadline` (nanoseconds of `MonotonicClock`). False when it passed.
  package func wait(until deadline: UInt64) -> Bool {
    var when = timespec(
      tv_sec: Int(deadline / 1_000_000_000), tv_nsec: Int(deadline % 1_000_000_000))
    return unsafe pthread_cond_timedwait(condition, lock.mutex, &when) != ETIMEDOUT
  }

  /// Wakes one waiter.
  package func signal() {
    unsafe pthread_cond_signal(condition)
  }

  /// Wakes every waiter.
  package func broadcast() {
    unsafe pthread_cond_broadcast(condition)
  }
}
