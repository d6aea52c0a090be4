import Foundation
import Glibc
package import TestKit

/// A running `spillway inspect` whose command waits until the test lets it go on: a moment that lasts as long as the test
/// wants. For one thread at a time.
package final class GatedInspection {
  /// The process, for its stderr and its end.
  package let child: ChildProcess
  private let gate: FileHandle

  /// Starts it and returns when its command runs: the moment is over.
  ///
  /// `options` follow `inspect`; `script` is what the command does once it may, in the shell's words, and finds the disks
  /// as libguestfs takes them in `$@`. `launcher` is a command line that executes what follows it, in place.
  package init(
    _ options: [String], then script: String, in directory: TemporaryDirectory, name: String = "inspection",
    environment: [String: String] = [:], launcher: [String] = []
  ) throws {
    let pipe = directory.file("\(name).gate")
    let command = directory.file("\(name).sh")
    // Not for the children: a command whose parent was killed ends when nobody can write to the pipe any more.
    let descriptor = mkfifo(pipe, 0o600) == 0 ? open(pipe, O_RDWR | O_CLOEXEC) : -1
    guard descriptor >= 0 else { throw PeerError("cannot make the pipe \(pipe)") }
    gate = FileHandle(fileDescriptor: descriptor, closeOnDealloc: true)
    try Data("echo 'command: runs' >&2\nread -r go < '\(pipe)'\n\(script)\n".utf8)
      .write(to: URL(fileURLWithPath: command))
    let words = try launcher + [Spillway.path(), "inspect"] + options + ["--", "/bin/sh", command, "{}"]
    child = try ChildProcess(words[0], Array(words[1...]), environment: environment)
    try child.waitForErrorLine(containing: "command: runs", within: .seconds(120))
  }

  deinit { child.kill() }

  /// Lets the command go on.
  package func goOn() throws { try gate.write(contentsOf: Data("go\n".utf8)) }

  /// Kills the process that serves the journal; returns its id.
  @discardableResult
  package func killEngine() throws -> Int32 {
    let engine = try waitForEngine(otherThan: 0)
    kill(engine, SIGKILL)
    return engine
  }

  /// Waits until there is an engine other than `old`, and returns its id.
  @discardableResult
  package func waitForEngine(otherThan old: Int32) throws -> Int32 {
    let deadline = ContinuousClock.now + .seconds(60)
    while ContinuousClock.now < deadline {
      if let engine = try engines().first(where: { $0 != old }) { return engine }
      guard !child.hasEnded(within: .milliseconds(10)) else { break }
    }
    throw PeerError("\(child.command): no engine\n\(child.errorLines.suffix(20).joined(separator: "\n"))")
  }

  /// Its children that serve the journal and live.
  private func engines() throws -> [Int32] {
    try FileManager.default.contentsOfDirectory(atPath: "/proc").compactMap { Int32($0) }.filter { id in
      // A process that ends meanwhile is none.
      guard let words = FileManager.default.contents(atPath: "/proc/\(id)/cmdline"),
        let about = FileManager.default.contents(atPath: "/proc/\(id)/stat")
      else { return false }
      let arguments = String(decoding: words, as: UTF8.self).split(separator: "\0")
      // After the name, which is in parentheses: the state, then the parent.
      let fields =
        String(decoding: about, as: UTF8.self).split(separator: ")").last?.split(separator: " ") ?? []
      return arguments.dropFirst().first == "engine" && fields.count > 1
        && Int32(fields[1]) == child.processID
    }
  }
}
