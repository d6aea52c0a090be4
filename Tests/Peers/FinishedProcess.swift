/// How a process ended.
package enum ProcessEnd: Sendable, Equatable, CustomStringConvertible {
  case exited(Int32)
  case killed(signal: Int32)

  package var description: String {
    switch self {
    case .exited(let code): "exit status \(code)"
    case .killed(let signal): "killed by signal \(signal)"
    }
  }
}

/// All that a process left behind.
package struct FinishedProcess: Sendable {
  /// The command line, for messages.
  package var command: String
  package var status: ProcessEnd
  /// Its stdout.
  package var output: [UInt8]
  /// Its stderr, line by line.
  package var errorLines: [String]

  /// Its stdout as text.
  package var outputText: String { String(decoding: output, as: UTF8.self) }

  /// Itself, if it ended with exit status 0; else an error with what it said.
  @discardableResult
  package func succeeded() throws(PeerError) -> FinishedProcess {
    guard status == .exited(0) else {
      throw PeerError("\(command): \(status)\n\(errorLines.suffix(20).joined(separator: "\n"))")
    }
    return self
  }
}
