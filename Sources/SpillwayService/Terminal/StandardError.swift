internal import Glibc

/// Lines for the user on stderr: `spillway: message`, each in one write so that threads do not mix theirs.
package enum StandardError {
  /// Prints one line; line breaks inside the message become spaces, for one event is one line.
  package static func printLine(_ message: String) {
    write("spillway: " + oneLine(message) + "\n")
  }

  /// `message` without line breaks and runs of blanks around them.
  package static func oneLine(_ message: String) -> String {
    message.split(whereSeparator: \.isNewline)
      .map { $0.drop(while: { $0 == " " }) }
      .joined(separator: " ")
  }

  /// Writes `text` as it is. What cannot be written is lost: there is nowhere to say so.
  package static func write(_ text: String) {
    var bytes = ArraySlice(text.utf8)
    while !bytes.isEmpty {
      // SAFETY: write reads at most the array's own bytes, during the call.
      let count = unsafe bytes.withUnsafeBytes { unsafe Glibc.write(STDERR_FILENO, $0.baseAddress, $0.count) }
      if count < 0 && errno == EINTR { continue }
      guard count > 0 else { return }
      bytes = bytes.dropFirst(count)
    }
  }

  /// Whether a person looks at stderr.
  package static var isTerminal: Bool { isatty(STDERR_FILENO) == 1 }
}
