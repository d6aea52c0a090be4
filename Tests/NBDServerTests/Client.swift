import Foundation
import Glibc
import Testing

/// A program that talks to a server, run to its end.
enum Client {
  struct Outcome {
    let status: Int32
    let output: String
  }

  private static func path(of program: String) -> String? {
    ["/usr/bin/", "/bin/", "/usr/local/bin/", "/usr/sbin/", "/sbin/"].map { $0 + program }.first {
      access($0, X_OK) == 0
    }
  }

  /// A program that is missing is a failure: a test that may be skipped is one that nobody misses.
  static func run(_ program: String, _ arguments: String...) throws -> Outcome {
    try run(program, arguments)
  }

  static func run(_ program: String, _ arguments: [String]) throws -> Outcome {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: try #require(path(of: program), "\(program) is missing"))
    process.arguments = arguments
    // nbdsh looks for the system's Python, which has its module.
    process.environment = ["PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/nonexistent"]
    let pipe = Pipe()
    process.standardOutput = pipe
    process.standardError = pipe
    try process.run()
    let output = pipe.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    return Outcome(status: process.terminationStatus, output: String(decoding: output, as: UTF8.self))
  }
}
