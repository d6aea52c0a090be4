internal import FoundationEssentials
internal import Glibc

/// A program that was started for what it says. It is killed with its owner.
///
/// It stands in a process group of its own: a ^C at our terminal is for us, and what we take down then we take down
/// through it.
final class ChildProgram {
  private let program: String
  private let process: pid_t
  private var hasEnded = false
  /// What it says.
  var output: LineSocket
  private var errors: LineSocket

  /// Starts `program`, found along PATH, with the messages of the C locale.
  init(_ program: String, _ arguments: [String]) throws(QMPError) {
    self.program = program
    let (ourOutput, itsOutput) = try socketPair(for: program)
    output = LineSocket(adopting: ourOutput)
    defer { close(itsOutput) }
    let (ourErrors, itsErrors) = try socketPair(for: program)
    errors = LineSocket(adopting: ourErrors)
    defer { close(itsErrors) }
    process = try spawn(program, arguments, output: itsOutput, errors: itsErrors)
  }

  deinit { end() }

  /// Runs `program` to its end and returns the lines that it said. A failure is told in its own words; after `limit` (nil
  /// is for ever) it is killed.
  static func run(
    _ program: String, _ arguments: [String], within limit: Duration?, awaited: String
  ) throws(QMPError) -> [[UInt8]] {
    let child = try ChildProgram(program, arguments)
    let lines = try child.output.readToEnd(until: limit.map { .now + $0 }, awaited: awaited)
    // It has closed its output: it is about to end.
    let words = child.complaint()
    let word = child.wait()
    guard word == 0 else { throw .programFailed(program: program, description: words) }
    return lines
  }

  /// What it complains of, without the word that virsh begins with; it ends, or is ended.
  func complaint() -> String {
    let lines: [[UInt8]]
    do throws(QMPError) {
      lines = try errors.readToEnd(until: .now + .seconds(5), awaited: "end of \(program)")
    } catch {
      lines = []
    }
    let texts = lines.map { line in
      let whole = text(line)
      return whole.hasPrefix("error: ") ? String(whole.dropFirst("error: ".count)) : whole
    }
    return texts.isEmpty ? "it gives no reason" : texts.joined(separator: "; ")
  }

  /// Waits for its end; what waitpid says of it.
  private func wait() -> Int32 {
    var word: Int32 = 0
    // SAFETY: waitpid fills the word it is lent.
    while unsafe waitpid(process, &word, 0) < 0 && errno == EINTR {}
    hasEnded = true
    return word
  }

  /// Ends it at once, unless it has ended. Until `wait` its number is nobody else's.
  private func end() {
    guard !hasEnded else { return }
    kill(process, SIGKILL)
    _ = wait()
  }
}

extension LineSocket {
  /// All lines until the other side closes.
  fileprivate mutating func readToEnd(until deadline: Instant?, awaited: String) throws(QMPError) -> [[UInt8]]
  {
    var lines: [[UInt8]] = []
    while true {
      do throws(QMPError) {
        lines.append(try readLine(until: deadline, awaited: awaited))
      } catch .closed {
        return lines
      }
    }
  }
}

/// Two sockets connected to each other, which no other child inherits.
private func socketPair(for program: String) throws(QMPError) -> (Int32, Int32) {
  var pair: (Int32, Int32) = (-1, -1)
  // SAFETY: a pair of Int32 is the array of two that socketpair fills.
  let result = unsafe withUnsafeMutablePointer(to: &pair) { pointer in
    unsafe pointer.withMemoryRebound(to: Int32.self, capacity: 2) { two in
      unsafe socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0, two)
    }
  }
  guard result == 0 else { throw .cannotRun(program: program, errno: errno) }
  return pair
}

private func spawn(
  _ program: String, _ arguments: [String], output: Int32, errors: Int32
) throws(QMPError) -> pid_t {
  let environment = ProcessInfo.processInfo.environment.merging(["LC_ALL": "C"]) { _, own in own }
  // SAFETY: what is initialised here is destroyed here; the strings are freed after posix_spawnp has copied them.
  var actions = unsafe posix_spawn_file_actions_t()
  unsafe posix_spawn_file_actions_init(&actions)
  defer { unsafe posix_spawn_file_actions_destroy(&actions) }
  unsafe posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
  unsafe posix_spawn_file_actions_adddup2(&actions, output, 1)
  unsafe posix_spawn_file_actions_adddup2(&actions, errors, 2)

  var attributes = posix_spawnattr_t()
  unsafe posix_spawnattr_init(&attributes)
  defer { unsafe posix_spawnattr_destroy(&attributes) }
  // The daemon blocks and ignores signals that a program expects as usual.
  var none = sigset_t()
  unsafe sigemptyset(&none)
  unsafe posix_spawnattr_setsigmask(&attributes, &none)
  var usual = sigset_t()
  unsafe sigemptyset(&usual)
  for signal in [SIGPIPE, SIGTERM, SIGINT, SIGHUP] { unsafe sigaddset(&usual, signal) }
  unsafe posix_spawnattr_setsigdefault(&attributes, &usual)
  unsafe posix_spawnattr_setpgroup(&attributes, 0)
  unsafe posix_spawnattr_setflags(
    &attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP))

  var words = unsafe ([program] + arguments).map { unsafe strdup($0) } + [nil]
  var settings = unsafe environment.map { unsafe strdup("\($0.key)=\($0.value)") } + [nil]
  defer { unsafe (words + settings).forEach { unsafe free($0) } }
  var process = pid_t()
  let code = unsafe posix_spawnp(&process, program, &actions, &attributes, &words, &settings)
  guard code == 0 else { throw .cannotRun(program: program, errno: code) }
  return process
}
