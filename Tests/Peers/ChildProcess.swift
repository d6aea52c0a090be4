import Foundation
import Glibc
import Threads

// posix_spawn and not Foundation's Process: a child must inherit no descriptor but its own three (a forgotten
// pipe end or socket keeps a dead daemon's peers waiting), must not be held up by our blocked signals, and must
// be killed by an id that cannot have gone to another process meanwhile.

/// A running program. Its stdin is /dev/null, its stdout and stderr are kept; it is killed with its owner.
package final class ChildProcess: Sendable {
  /// The command line, for messages.
  package let command: String
  /// Its id, which may belong to another once it has ended.
  package let processID: Int32
  private let state: State
  private static let spawning = NSLock()

  /// Starts the program at `path`.
  package init(_ path: String, _ arguments: [String], environment extra: [String: String] = [:]) throws {
    let name = path.split(separator: "/").last.map(String.init) ?? path
    command = String(([name] + arguments).joined(separator: " ").prefix(300))
    // A pipe is open to every child until it is marked; so one child at a time.
    Self.spawning.lock()
    defer { Self.spawning.unlock() }
    let output = try Pipe()
    let errors = try Pipe()

    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
    posix_spawn_file_actions_adddup2(&actions, output.writeEnd, 1)
    posix_spawn_file_actions_adddup2(&actions, errors.writeEnd, 2)

    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    var noSignals = sigset_t()
    sigemptyset(&noSignals)
    posix_spawnattr_setsigmask(&attributes, &noSignals)
    posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))

    // A crash report of a killed daemon helps nobody and may hang on to the pipe.
    let fixed = ["LC_ALL": "C.UTF-8", "SWIFT_BACKTRACE": "enable=no"]
    let environment = ProcessInfo.processInfo.environment
      .merging(fixed) { _, own in own }
      .merging(extra) { _, own in own }
    var argv = ([path] + arguments).map { strdup($0) } + [nil]
    var envp = environment.map { strdup("\($0.key)=\($0.value)") } + [nil]
    defer { (argv + envp).forEach { free($0) } }

    var pid = pid_t()
    let code = posix_spawn(&pid, path, &actions, &attributes, &argv, &envp)
    close(output.writeEnd)
    close(errors.writeEnd)
    guard code == 0 else {
      close(output.readEnd)
      close(errors.readEnd)
      throw PeerError("cannot start \(path): \(String(cString: strerror(code)))")
    }

    processID = pid
    state = State(pid)
    LivingChildren.add(state)
    Thread.detachNewThread { [state] in
      drain(output.readEnd) { state.addOutput($0) }
      state.streamEnded()
    }
    Thread.detachNewThread { [state] in
      drain(errors.readEnd) { state.addErrors($0) }
      state.streamEnded()
    }
    Thread.detachNewThread { [state] in
      state.awaitExit()
      LivingChildren.remove(state)
    }
  }

  deinit { kill() }

  /// Ends it at once (SIGKILL) and returns when it is gone. Harmless when it has ended.
  package func kill() {
    state.send(SIGKILL)
    state.waitForExit(until: .max)
  }

  /// Asks it to end (SIGTERM).
  package func terminate() { state.send(SIGTERM) }

  /// Sends it a signal.
  package func send(_ signal: Int32) { state.send(signal) }

  /// Waits for it to end of its own will, at most `limit`. What a poll loop paces itself with.
  @discardableResult
  package func hasEnded(within limit: Duration) -> Bool { state.waitForExit(until: instant(after: limit)) }

  /// Waits for its end and returns all that it left; after `limit` it is killed and that is an error.
  package func finish(within limit: Duration = .seconds(120)) throws -> FinishedProcess {
    guard let status = state.waitForEnd(until: instant(after: limit)) else {
      let said = errorLines.suffix(20).joined(separator: "\n")
      kill()
      throw PeerError("\(command): did not end within \(limit)\n\(said)")
    }
    return FinishedProcess(
      command: command, status: status, output: state.output, errorLines: errorLines)
  }

  /// The first line of its stderr that contains all of `words`; an error when it ends or `limit` passes without.
  @discardableResult
  package func waitForErrorLine(containing words: String..., within limit: Duration) throws -> String {
    let line = state.waitForLine(until: instant(after: limit)) { line in words.allSatisfy(line.contains) }
    if let line { return line }
    let how = state.status.map { "ended (\($0))" } ?? "went on"
    let said = errorLines.suffix(20).joined(separator: "\n")
    throw PeerError("\(command): \(how) without a line with '\(words.joined(separator: " "))'\n\(said)")
  }

  /// The line of its stderr after the first `count`; nil when it ends or `limit` passes without.
  ///
  /// For a reader that must miss nothing and looks at each line once.
  package func errorLine(after count: Int, within limit: Duration) -> String? {
    state.waitForLine(count, until: instant(after: limit))
  }

  /// What it has said on stdout so far.
  package var outputText: String { String(decoding: state.output, as: UTF8.self) }

  /// What it has said on stderr so far.
  package var errorLines: [String] { state.errorLines }

  /// Kills every child that this process still has: for a watchdog or a signal.
  package static func killAll() { LivingChildren.killAll() }
}

private struct Pipe {
  let readEnd: Int32
  let writeEnd: Int32

  init() throws {
    var ends: [Int32] = [-1, -1]
    guard pipe(&ends) == 0 else { throw PeerError("pipe: \(String(cString: strerror(errno)))") }
    for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
    (readEnd, writeEnd) = (ends[0], ends[1])
  }
}

private func drain(_ descriptor: Int32, _ take: (ArraySlice<UInt8>) -> Void) {
  var chunk = [UInt8](repeating: 0, count: 64 << 10)
  while true {
    let count = read(descriptor, &chunk, chunk.count)
    if count < 0 && errno == EINTR { continue }
    guard count > 0 else { break }
    take(chunk[..<count])
  }
  close(descriptor)
}

/// The instant of `MonotonicClock` that is `limit` from now.
private func instant(after limit: Duration) -> UInt64 {
  let parts = limit.components
  return MonotonicClock.nanoseconds() + UInt64(parts.seconds) * 1_000_000_000
    + UInt64(parts.attoseconds) / 1_000_000_000
}
