internal import Glibc

/// The signals that end the daemon: SIGTERM, SIGINT and SIGHUP, and SIGUSR1 with which its own threads wake
/// the one that waits.
///
/// `block` comes before the first thread starts, for threads inherit the mask: then a signal reaches only
/// `wait`, never a thread in the middle of its work.
enum TerminationSignals {
  private static let ending = [SIGTERM, SIGINT, SIGHUP]

  /// Keeps the signals for `wait`, and lets a closed pipe or socket be an error and no signal.
  static func block() {
    // SIG_IGN runs no code of ours.
    signal(SIGPIPE, SIG_IGN)
    mask(SIG_BLOCK, ending + [SIGUSR1])
  }

  /// Waits for one of the signals and returns it.
  static func wait() -> Int32 {
    var set = signalSet(ending + [SIGUSR1])
    var number: Int32 = 0
    // SAFETY: sigwait reads the set and writes the number during the call only.
    while unsafe sigwait(&set, &number) != 0 {}
    return number
  }

  /// As `wait`, for `milliseconds` at most: then nil.
  static func wait(milliseconds: Int) -> Int32? {
    var set = signalSet(ending + [SIGUSR1])
    var limit = timespec(tv_sec: milliseconds / 1000, tv_nsec: milliseconds % 1000 * 1_000_000)
    // SAFETY: sigtimedwait reads set and limit during the call only.
    let number = unsafe sigtimedwait(&set, nil, &limit)
    return number > 0 ? number : nil
  }

  /// Wakes `wait`, from any thread.
  static func wake() { kill(getpid(), SIGUSR1) }

  /// Keeps those of the signals for `wait` that the process was not started to ignore, as nohup has it.
  static func blockHeeded() {
    // SAFETY: sigaction fills the structure that it is given; SIG_IGN is the handler with the address 1.
    let heeded = ending.filter { number in
      var action = sigaction()
      guard unsafe sigaction(number, nil, &action) == 0 else { return true }
      return unsafe unsafeBitCast(action.__sigaction_handler.sa_handler, to: Int.self) != 1
    }
    mask(SIG_BLOCK, heeded)
  }

  /// Ends the process as `number` would have, had it not been kept.
  static func end(by number: Int32) -> Never {
    signal(number, SIG_DFL)
    mask(SIG_UNBLOCK, [number])
    raise(number)
    _exit(128 + number)
  }

  /// From here on another signal ends the process at once. The journal then is as after a crash: nothing
  /// acknowledged is lost, the next start recovers it.
  static func endAtOnceFromNowOn() {
    for number in ending {
      // The handler calls nothing but _exit, which is allowed in one.
      signal(number) { _ in _exit(ExitStatus.failed.rawValue) }
    }
    mask(SIG_UNBLOCK, ending)
  }

  /// From here on nothing interrupts the process.
  static func ignoreFromNowOn() {
    for number in ending { signal(number, SIG_IGN) }
  }

  /// Whether `number` asks the daemon to end.
  static func isEnding(_ number: Int32) -> Bool { ending.contains(number) }

  /// The name of `number` for people.
  static func name(_ number: Int32) -> String {
    switch number {
    case SIGTERM: "SIGTERM"
    case SIGINT: "SIGINT"
    case SIGHUP: "SIGHUP"
    default: "signal \(number)"
    }
  }

  private static func mask(_ how: Int32, _ numbers: [Int32]) {
    var set = signalSet(numbers)
    // SAFETY: pthread_sigmask reads the set during the call only.
    let code = unsafe pthread_sigmask(how, &set, nil)
    precondition(code == 0, "pthread_sigmask failed")
  }

  /// The set of `numbers`.
  static func signalSet(_ numbers: [Int32]) -> sigset_t {
    var set = sigset_t()
    // SAFETY: both calls write only the set they are given.
    unsafe sigemptyset(&set)
    for number in numbers { unsafe sigaddset(&set, number) }
    return set
  }
}
