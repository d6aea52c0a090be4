import Foundation
import Testing

/// Goal: scripts can rely on exit statuses, and a failure is one line that says what to do.
/// Method: the built program itself, with command lines that need no journal.
@Suite(.timeLimit(.minutes(1))) struct CommandLineTests {
  private struct Run {
    var status: Int32
    var output: String
    var errors: String
  }

  /// Runs `spillway` (it lies beside the test program) with `arguments`.
  private func run(_ arguments: [String]) throws -> Run {
    let own = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
    let process = Process()
    process.executableURL = URL(fileURLWithPath: own).deletingLastPathComponent().appending(path: "spillway")
    process.arguments = arguments
    let output = Pipe()
    let errors = Pipe()
    process.standardOutput = output
    process.standardError = errors
    try process.run()
    // Neither is larger than a pipe holds, so they can be read one after the other.
    let outputText = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    let errorText = String(decoding: errors.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    return Run(status: process.terminationStatus, output: outputText, errors: errorText)
  }

  @Test(
    "a wrong command line is one line on stderr and status 2",
    arguments: [
      [], ["frobnicate"], ["serve"], ["serve", "-j"], ["serve", "-j", "/nonexistent/j"],
      ["serve", "-j", "/nonexistent/j", "--disk", "a=1"],
      ["serve", "-j", "/nonexistent/j", "--disk", "a=1M", "--disk", "a=1M"],
      ["serve", "-j", "/nonexistent/j", "--disk", "a=1M", "--listen", "vsock:1:2"],
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
    let run = try run(arguments)
    #expect(run.status == 2)
    expectOneLine(run)
  }

  @Test(
    "a journal that is not there is one line on stderr and status 1",
    arguments: [
      ["status", "-j", "/nonexistent/j"], ["ctl", "-j", "/nonexistent/j", "flush"],
      ["replay", "-j", "/nonexistent/j", "sda", "out"], ["serve", "-j", "/nonexistent/j", "--disk", "a=1M"],
    ])
  func missingJournal(arguments: [String]) throws {
    let run = try run(arguments)
    #expect(run.status == 1)
    expectOneLine(run)
  }

  @Test(
    "help and version go to stdout and are a success",
    arguments: [["--help"], ["serve", "--help"], ["replay", "-h"], ["help", "ctl"], ["--version"]])
  func help(arguments: [String]) throws {
    let run = try run(arguments)
    #expect(run.status == 0)
    #expect(!run.output.isEmpty)
    #expect(run.errors.isEmpty)
  }

  private func expectOneLine(_ run: Run) {
    #expect(run.output.isEmpty)
    #expect(run.errors.hasPrefix("spillway: "))
    #expect(run.errors.split(separator: "\n", omittingEmptySubsequences: false).count == 2, "\(run.errors)")
    #expect(run.errors.hasSuffix("\n"))
  }
}
