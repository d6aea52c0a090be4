internal import Bytes
internal import CSupport
internal import FoundationEssentials
internal import Glibc
internal import Threads

/// A program that runs beside us, and the thread that waits for it.
package final class ChildProgram: @unchecked Sendable {
  // Sendable: `status` is guarded by `lock`; `watcher` is set once, before anyone else sees the object.

  private let process: pid_t
  private let lock = Lock()
  private var status: Int32?
  private var watcher: WorkerThread?

  /// What is started, and with what.
  package struct Start: Sendable {
    /// A path, or a name that is looked for in PATH.
    package var program: String
    /// Without the program's own name.
    package var arguments: [String]
    /// What it is called in its own arguments; nil: `program`.
    package var name: String?
    /// Added to our own environment.
    package var variables: [String: String] = [:]
    /// Descriptors of ours and the numbers that the program finds them under, besides its standard streams.
    package var descriptors: [(ours: Int32, its: Int32)] = []
    /// Whether it is a session of its own: signals of the terminal do not reach it.
    package var isDetached = false

    /// `program` with `arguments`, and nothing else.
    package init(_ program: String, _ arguments: [String]) {
      self.program = program
      self.arguments = arguments
    }

    /// `/bin/sh -c command` with `variables`.
    package static func shell(_ command: String, variables: [String: String]) -> Start {
      var start = Start("/bin/sh", ["-c", command])
      start.variables = variables
      return start
    }
  }

  /// Starts the program with the signals as any program expects them. `onEnd` runs on a thread of ours when it has
  /// ended. `purpose` names it in errors ("the command of --run").
  package init(
    _ start: Start, purpose: String, onEnd: @escaping @Sendable () -> Void
  ) throws(ServiceError) {
    process = try Self.spawn(start, purpose)
    watcher = WorkerThread(name: "child") { [self] in
      reap()
      onEnd()
    }
    guard watcher != nil else {
      Glibc.kill(process, SIGKILL)
      reap()
      throw .failed("no thread is left to wait for \(purpose); raise the limit of processes")
    }
  }

  /// Its process id, which may be another's once it has ended.
  package var processID: Int32 { process }

  /// Asks it to end (SIGTERM), unless it has.
  package func terminate() { send(SIGTERM) }

  /// Ends it at once (SIGKILL), unless it has ended. It is gone when `finish` returns.
  package func kill() { send(SIGKILL) }

  private func send(_ signal: Int32) {
    // Under the lock the number is still the program's: `reap` gives it back under the same lock.
    lock.withLock { if status == nil { Glibc.kill(process, signal) } }
  }

  /// Whether it has ended.
  package var hasEnded: Bool { lock.withLock { status != nil } }

  /// Waits for the end. Its exit status, 128 + n after signal n. Call it once.
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

  private static func spawn(_ start: Start, _ purpose: String) throws(ServiceError) -> pid_t {
    let environment = ProcessInfo.processInfo.environment.merging(start.variables) { _, own in own }
    let arguments = CStrings([start.name ?? start.program] + start.arguments)
    let settings = CStrings(environment.map { "\($0.key)=\($0.value)" })
    var attributes = posix_spawnattr_t()
    var blocked = TerminationSignals.signalSet([])
    var usual = TerminationSignals.signalSet([SIGPIPE, SIGTERM, SIGINT, SIGHUP])
    var actions = unsafe posix_spawn_file_actions_t()
    var process = pid_t()
    // SAFETY: attributes and actions are made, used and destroyed here; the strings outlive the call of posix_spawnp.
    unsafe posix_spawnattr_init(&attributes)
    unsafe posix_spawn_file_actions_init(&actions)
    defer {
      unsafe posix_spawnattr_destroy(&attributes)
      unsafe posix_spawn_file_actions_destroy(&actions)
    }
    unsafe posix_spawnattr_setsigmask(&attributes, &blocked)
    unsafe posix_spawnattr_setsigdefault(&attributes, &usual)
    let flags = Int32(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF)
    unsafe posix_spawnattr_setflags(
      &attributes, Int16(flags | (start.isDetached ? spw_POSIX_SPAWN_SETSID : 0)))
    // Copies with numbers that are none of those that the program finds them under.
    let copies = start.descriptors.map { (copy: fcntl($0.ours, F_DUPFD_CLOEXEC, 100), its: $0.its) }
    defer { for (copy, _) in copies where copy >= 0 { close(copy) } }
    guard copies.allSatisfy({ $0.copy >= 0 }) else {
      throw .failed("\(purpose) cannot be started (\(SystemError.text(errno)))")
    }
    for (copy, its) in copies { _ = unsafe posix_spawn_file_actions_adddup2(&actions, copy, its) }
    let code = withExtendedLifetime((arguments, settings)) {
      unsafe posix_spawnp(
        &process, start.program, &actions, &attributes, arguments.pointers, settings.pointers)
    }
    guard code == 0 else {
      throw .failed("\(purpose) cannot be started (\(start.program): \(SystemError.text(code)))")
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
