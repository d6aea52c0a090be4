internal import Bytes
internal import FoundationEssentials
internal import Glibc
internal import Threads

/// COMMAND of `--run`: a shell that runs beside the daemon, and the thread that waits for it.
package final class ShellCommand: @unchecked Sendable {
  // Sendable: `status` is guarded by `lock`; `watcher` is set once, before anyone else sees the object.

  private let process: pid_t
  private let lock = Lock()
  private var status: Int32?
  private var watcher: WorkerThread?

  /// Starts `/bin/sh -c command` with `variables` added to the environment and the signals as any program
  /// expects them. `onEnd` runs on a thread of ours when the shell has ended.
  package init(
    _ command: String, variables: [String: String], onEnd: @escaping @Sendable () -> Void
  ) throws(ServiceError) {
    process = try Self.spawn(command, variables: variables)
    watcher = WorkerThread(name: "run") { [self] in
      reap()
      onEnd()
    }
    guard watcher != nil else {
      kill(process, SIGKILL)
      reap()
      throw .failed("no thread is left to wait for the command of --run; raise the limit of processes")
    }
  }

  /// Asks the shell to end, unless it has.
  package func terminate() {
    // Under the lock the number is still the shell's: `reap` gives it back under the same lock.
    lock.withLock { if status == nil { kill(process, SIGTERM) } }
  }

  /// Waits for the end. The shell's exit status, 128 + n after signal n. Call it once.
  package func finish() -> Int32 {
    watcher?.join()
    return lock.withLock { status ?? ExitStatus.failed.rawValue }
  }

  private func reap() {
    var information = unsafe siginfo_t()
    // WNOWAIT: the process stays a zombie, so that its number is not another's before the lock is held.
    // SAFETY: waitid and waitpid fill what they are given and keep nothing.
    while unsafe waitid(P_PID, id_t(process), &information, WEXITED | WNOWAIT) < 0 && errno == EINTR {}
    lock.withLock {
      var word: Int32 = 0
      while unsafe waitpid(process, &word, 0) < 0 && errno == EINTR {}
      let signal = word & 0x7f
      status = signal == 0 ? (word >> 8) & 0xff : 128 + signal
    }
  }

  private static func spawn(
    _ command: String, variables: [String: String]
  ) throws(ServiceError) -> pid_t {
    let environment = ProcessInfo.processInfo.environment.merging(variables) { _, own in own }
    let arguments = CStrings(["/bin/sh", "-c", command])
    let settings = CStrings(environment.map { "\($0.key)=\($0.value)" })
    var attributes = posix_spawnattr_t()
    var blocked = TerminationSignals.signalSet([])
    var usual = TerminationSignals.signalSet([SIGPIPE, SIGTERM, SIGINT, SIGHUP])
    var process = pid_t()
    // SAFETY: attributes are made, used and destroyed here; the strings outlive the call of posix_spawn.
    unsafe posix_spawnattr_init(&attributes)
    defer { unsafe posix_spawnattr_destroy(&attributes) }
    unsafe posix_spawnattr_setsigmask(&attributes, &blocked)
    unsafe posix_spawnattr_setsigdefault(&attributes, &usual)
    unsafe posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))
    let code = withExtendedLifetime((arguments, settings)) {
      unsafe posix_spawn(&process, "/bin/sh", nil, &attributes, arguments.pointers, settings.pointers)
    }
    guard code == 0 else {
      throw .failed("the command of --run cannot be started (/bin/sh: \(SystemError.text(code)))")
    }
    return process
  }
}

/// A null-terminated array of C strings.
@safe
private final class CStrings {
  let pointers: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>
  private let count: Int

  init(_ strings: [String]) {
    count = strings.count
    unsafe pointers = .allocate(capacity: strings.count + 1)
    // SAFETY: count + 1 slots were allocated and each is initialised once.
    for (index, string) in strings.enumerated() {
      unsafe (pointers + index).initialize(to: strdup(string))
    }
    unsafe (pointers + strings.count).initialize(to: nil)
  }

  deinit {
    for index in 0..<count { unsafe free(pointers[index]) }
    unsafe pointers.deallocate()
  }
}
