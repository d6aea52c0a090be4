import Foundation
import SpillwayService
import TestKit
import Testing
import Threads

/// Goal: COMMAND of `--run` starts as any program would and its status comes back.
/// Method: real shells; the test waits for their end, never for time.
@Suite(.timeLimit(.minutes(1))) struct ChildProgramTests {
  private func status(of command: String, variables: [String: String] = [:]) throws -> Int32 {
    let ended = Ended()
    let shell = try ChildProgram(.shell(command, variables: variables), purpose: "a test") { ended.set() }
    let status = shell.finish()
    #expect(ended.isSet, "the end is told before finish returns")
    return status
  }

  @Test(
    "the shell's status comes back, 128 + n after signal n",
    arguments: [
      ("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -TERM $$", 143), ("kill -KILL $$", 137),
    ])
  func exitStatus(command: String, status expected: Int32) throws {
    #expect(try status(of: command) == expected)
  }

  @Test("the variables are added to the environment that was there")
  func variables() throws {
    let variables = ["uri": "nbd+unix:///a b?socket=/s", "HOME": "/elsewhere"]
    let command =
      #"test "$uri" = 'nbd+unix:///a b?socket=/s' && test "$HOME" = /elsewhere && test -n "$PATH""#
    #expect(try status(of: command, variables: variables) == 0)
  }

  @Test("a command that waits ends when it is asked to")
  func terminate() throws {
    let directory = try TemporaryDirectory()
    let pipe = directory.file("pipe")
    #expect(mkfifo(pipe, 0o600) == 0)
    let shell = try ChildProgram(
      .shell("echo ready >\"$pipe\"; read line <\"$pipe\"", variables: ["pipe": pipe]), purpose: "a test"
    ) {}
    // Opening the pipe waits for the shell to write: only then is it sure to be in its own code.
    let reader = try #require(FileHandle(forReadingAtPath: pipe))
    #expect(reader.readDataToEndOfFile() == Data("ready\n".utf8))
    shell.terminate()
    #expect(shell.finish() == 143)
    shell.terminate()
  }

  @Test("signals that the daemon blocks or ignores are the command's as usual")
  func signals() throws {
    // A pipe whose reader is gone ends its writer by SIGPIPE, which is 141, unless that was inherited as ignored.
    signal(SIGPIPE, SIG_IGN)
    #expect(try status(of: "{ yes; echo $? >&2; } 2>/dev/null | true; kill -PIPE $$") == 141)
  }

  @Test("the words before the command undo what the daemon changed of its process")
  func settings() throws {
    let settings = ProcessSettings(inheritedMask: 0o027, inheritedOpenFiles: 123, openFiles: 4096)
    let command = settings.undone(before: "test $(umask) = 0027 && test $(ulimit -S -n) = 123")
    #expect(try status(of: command) == 0)
    let unread = ProcessSettings(inheritedMask: 0, inheritedOpenFiles: nil, openFiles: nil)
    #expect(unread.undone(before: "exit 3") == "umask 00; exit 3")
    #expect(try status(of: unread.undone(before: "exit 3")) == 3)
  }

  @Test("the pid file holds the number and goes, unless it is another's by then")
  func pidFile() throws {
    let directory = try TemporaryDirectory()
    let path = directory.file("pid")
    let file = try PIDFile(writingTo: path)
    #expect(try String(contentsOfFile: path, encoding: .utf8) == "\(getpid())\n")
    file.remove()
    #expect(!FileManager.default.fileExists(atPath: path))
    try "1\n".write(toFile: path, atomically: false, encoding: .utf8)
    file.remove()
    #expect(FileManager.default.fileExists(atPath: path))
    #expect(throws: ServiceError.self) { try PIDFile(writingTo: directory.file("no/such/pid")) }
  }
}

/// Whether something has happened, told between threads.
private final class Ended: @unchecked Sendable {
  // Sendable: the flag is guarded by the lock.
  private let lock = Lock()
  private var flag = false
  func set() { lock.withLock { flag = true } }
  var isSet: Bool { lock.withLock { flag } }
}
