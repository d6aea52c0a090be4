import Foundation
import Peers
import TestKit
import Testing

/// Goal: scripts can rely on exit statuses, and a failure is one line that says what to do.
/// Method: the built program itself, with command lines that need no journal.
@Suite(.timeLimit(.minutes(1))) struct CommandLineTests {
  @Test(
    "a wrong command line is one line on stderr and status 2",
    arguments: [
      [], ["frobnicate"], ["serve"], ["serve", "-j"], ["serve", "-j", "/nonexistent/j"],
      ["serve", "-j", "/nonexistent/j", "--disk", "a=1"],
      ["serve", "-j", "/nonexistent/j", "--disk", "a=1M", "--disk", "a=1M"],
      ["serve", "-j", "/nonexistent/j", "--disk", "a=1M", "--listen", "vsock:1"],
      ["serve", "-j", "/nonexistent/j", "--disk", "a=1M", "--admin", "tcp:h:1"],
      ["serve", "-j", "/nonexistent/j", "--disk", "a=1M", "--frobnicate"],
      ["serve", "-j", "/nonexistent/j", "--disk", "a=1M", "--unarrived", "never"],
      ["ctl", "-j", "/nonexistent/j"], ["ctl", "-j", "/nonexistent/j", "frobnicate"],
      ["ctl", "-j", "/nonexistent/j", "complete"], ["ctl", "-j", "/nonexistent/j", "flush", "sda"],
      ["ctl", "flush"], ["status"], ["status", "-j", "/nonexistent/j", "extra"],
      ["replay", "-j", "/nonexistent/j", "sda"], ["replay", "-j", "/nonexistent/j", "sda", "out.qcow2"],
      ["replay", "-j", "/nonexistent/j", "sda@x", "out"], ["replay", "-j", "/nonexistent/j", "sda", "-"],
    ])
  func usage(arguments: [String]) throws {
    let run = try Spillway.run(arguments)
    #expect(run.status == .exited(2))
    expectOneLine(run)
  }

  @Test(
    "a journal that is not there is one line on stderr and status 2, and nothing is made in its place",
    arguments: [["status"], ["ctl", "flush"], ["replay", "sda", "out"], ["serve"]])
  func missingJournal(arguments: [String]) throws {
    let empty = try TemporaryDirectory()
    let run = try Spillway.run(arguments + ["-j", empty.path])
    #expect(run.status == .exited(2))
    expectOneLine(run)
    #expect(try FileManager.default.contentsOfDirectory(atPath: empty.path).isEmpty)
  }

  @Test("a journal directory that cannot be made is one line on stderr and status 1")
  func impossibleDirectory() throws {
    let run = try Spillway.run(["serve", "-j", "/nonexistent/j", "--disk", "a=1M"])
    #expect(run.status == .exited(1))
    expectOneLine(run)
  }

  @Test(
    "help and version go to stdout and are a success",
    arguments: [["--help"], ["serve", "--help"], ["replay", "-h"], ["help", "ctl"], ["--version"]])
  func help(arguments: [String]) throws {
    let run = try Spillway.run(arguments)
    #expect(run.status == .exited(0))
    #expect(!run.output.isEmpty)
    #expect(run.errorLines.isEmpty)
  }

  private func expectOneLine(_ run: FinishedProcess) {
    #expect(run.output.isEmpty)
    #expect(run.errorLines.count == 1, "\(run.errorLines)")
    #expect(run.errorLines.first?.hasPrefix("spillway: ") == true)
  }
}
