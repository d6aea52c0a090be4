import Foundation
import Glibc
import Peers
import QEMUMonitor
import TestKit
import Testing

/// A running `spillway inspect` whose command waits until it is told to end. The test looks in the command's place.
final class RunningInspection {
  private let inspected: InspectedMachine
  /// The process: the session's parent.
  let child: ChildProcess
  /// The views, in the order of the disks.
  let views: [String]
  /// The engine that there was when the command began.
  let engineID: Int32
  /// The command's process.
  let commandID: Int32
  private let pipe: String
  private let gate: Int32

  /// Starts it and returns when the command runs. `script` is run before the command waits.
  init(
    _ inspected: InspectedMachine, number: Int, arguments: ([String]) -> [String], launcher: [String],
    script: String?, environment: [String: String]
  ) throws {
    self.inspected = inspected
    pipe = inspected.directory.file("gate\(number)")
    guard mkfifo(pipe, 0o600) == 0 else { throw PeerError("cannot make the pipe \(pipe)") }
    // For reading too: so it can be opened, and written to, though nobody reads yet.
    gate = open(pipe, O_RDWR | O_CLOEXEC)
    guard gate >= 0 else { throw PeerError("cannot open the pipe \(pipe)") }
    let command = """
      \(script ?? ":")
      echo $$ $view_uris > "$1.uris"
      echo 'command: runs' >&2
      until read -r status < "$1"; do :; done
      exit "$status"
      """
    let words = try launcher + [Spillway.path()] + arguments(["/bin/sh", "-c", command, "sh", pipe])
    child = try ChildProcess(words[0], Array(words[1...]), environment: environment)
    try child.waitForErrorLine(containing: "command: runs", within: .seconds(60))
    let told = FileManager.default.contents(atPath: pipe + ".uris") ?? Data()
    let answer = String(decoding: told, as: UTF8.self).split(whereSeparator: \.isWhitespace).map(String.init)
    commandID = try #require(answer.first.flatMap { Int32($0) })
    views = Array(answer[1...])
    engineID = try #require(inspected.engines().first, "there is no engine")
    try inspected.noteRing()
  }

  deinit {
    child.kill()
    for engine in inspected.engines() { kill(engine, SIGKILL) }
    // It is nobody's child if its parent was killed.
    let words = FileManager.default.contents(atPath: "/proc/\(commandID)/cmdline") ?? Data()
    if String(decoding: words, as: UTF8.self).contains(pipe) { kill(commandID, SIGKILL) }
    close(gate)
  }

  /// Lets the command end with `status`.
  func end(_ status: Int32) {
    let line = Array("\(status)\n".utf8)
    _ = Glibc.write(gate, line, line.count)
  }

  /// Lets the command end with `status`, and waits for the end of everything.
  func finish(_ status: Int32 = 0) throws -> FinishedProcess {
    try inspected.noteRing()
    end(status)
    return try child.finish(within: .seconds(60))
  }

  /// Waits for the end of everything, which has another cause.
  func waitForEnd() throws -> FinishedProcess {
    try inspected.noteRing()
    return try child.finish(within: .seconds(60))
  }

  /// Expects that the view of disk `index` is what its original holds.
  func expectMoment(_ index: Int = 0, _ location: SourceLocation = #_sourceLocation) throws {
    let copy = inspected.directory.file("copy\(index).raw")
    _ = unlink(copy)
    try Program.nbdcopy.run([views[index], copy])
    try EndToEnd.expectIdentical(inspected.originals[index], copy, location)
  }

  /// What a read of the view says: `right`, `wrong`, or an errno.
  func read(_ byteCount: Int, at offset: Int, of index: Int = 0) throws -> String {
    try LibNBD.start(
      """
      count, offset = int(uris[2]), int(uris[3])
      try:
          wanted = os.pread(os.open(uris[1], os.O_RDONLY), count, offset)
          print("right" if h.pread(count, offset) == wanted else "wrong", end="")
      except nbd.Error as error: print(error.errno, end="")
      """, views[index], inspected.originals[index], "\(byteCount)", "\(offset)"
    ).finish(within: .seconds(60)).succeeded().outputText
  }

  /// Kills the process that serves the journal; its id.
  @discardableResult
  func killEngine() throws -> Int32 {
    try inspected.noteRing()
    let engine = try #require(inspected.engines().first, "there is no engine")
    kill(engine, SIGKILL)
    return engine
  }

  /// Waits until there is an engine other than `old`; its id.
  func waitForEngine(otherThan old: Int32) throws -> Int32 {
    let deadline = ContinuousClock.now + .seconds(60)
    while ContinuousClock.now < deadline, !child.hasEnded(within: .milliseconds(1)) {
      if let engine = inspected.engines().first(where: { $0 != old }) { return engine }
    }
    throw PeerError("\(child.command): no engine\n\(child.errorLines.suffix(20).joined(separator: "\n"))")
  }

  /// Waits until `count` lines of its stderr contain `words`.
  func waitForLines(_ count: Int = 1, containing words: String) throws {
    let deadline = ContinuousClock.now + .seconds(60)
    while child.errorLines.filter({ $0.contains(words) }).count < count {
      guard ContinuousClock.now < deadline, !child.hasEnded(within: .milliseconds(10)) else {
        let said = child.errorLines.suffix(20).joined(separator: "\n")
        throw PeerError("\(child.command): never \(count) times '\(words)'\n\(said)")
      }
    }
  }

  /// Waits until the engine, which lost its parent, has torn down and is gone.
  func waitForFilesToGo() throws {
    let deadline = ContinuousClock.now + .seconds(60)
    while inspected.leavings.count > 2 || isAlive(engineID) {
      guard ContinuousClock.now < deadline else { throw PeerError("never gone: \(inspected.leavings)") }
      _ = try inspected.machine.monitor.nextEvent(within: .milliseconds(20)) { _ in false }
    }
  }

  /// Whether a process is more than what the system remembers of it.
  private func isAlive(_ process: Int32) -> Bool {
    guard let about = FileManager.default.contents(atPath: "/proc/\(process)/stat") else { return false }
    let text = String(decoding: about, as: UTF8.self)
    return !text.contains(") Z ") && !text.contains(") X ")
  }
}
