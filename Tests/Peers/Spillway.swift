import Foundation
import Glibc

/// The program under test, as its users run it.
package enum Spillway {
  /// The built program: beside the running executable or test bundle, or where SPILLWAY says.
  package static func path() throws(PeerError) -> String {
    if let told = ProcessInfo.processInfo.environment["SPILLWAY"] { return told }
    var buffer = [UInt8](repeating: 0, count: 4096)
    let count = readlink("/proc/self/exe", &buffer, buffer.count)
    let here = String(decoding: buffer[..<max(count, 0)], as: UTF8.self)
    let bundle = CommandLine.arguments.dropFirst().first { $0.hasSuffix(".xctest") }
    for neighbour in [bundle, here].compactMap({ $0 }) {
      let candidate = URL(fileURLWithPath: neighbour).deletingLastPathComponent().appendingPathComponent(
        "spillway"
      ).path
      if access(candidate, X_OK) == 0 { return candidate }
    }
    throw PeerError("no spillway program beside \(here): run `swift build`, or name it in SPILLWAY")
  }

  /// Starts `spillway` with `arguments`.
  package static func start(
    _ arguments: [String], environment: [String: String] = [:]
  ) throws -> ChildProcess {
    try ChildProcess(path(), arguments, environment: environment)
  }

  /// Runs `spillway` with `arguments` to its end, whatever that is.
  package static func run(
    _ arguments: [String], within limit: Duration = .seconds(120)
  ) throws -> FinishedProcess {
    try start(arguments).finish(within: limit)
  }

  /// Writes disk `name` of `journal` to the raw file `output`.
  package static func replay(_ journal: String, _ name: String, to output: String) throws {
    try run(["replay", "-j", journal, name, output]).succeeded()
  }

  /// `spillway status --json`, decoded.
  package static func status(_ journal: String) throws -> SpillwayStatus {
    let answer = try run(["status", "-j", journal, "--json"]).succeeded()
    do { return try JSONDecoder().decode(SpillwayStatus.self, from: Data(answer.output)) } catch {
      throw PeerError("\(answer.command) said what cannot be decoded: \(error)\n\(answer.outputText)")
    }
  }
}
