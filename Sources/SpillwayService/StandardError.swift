internal import Glibc
package import Logging
package import ExtentJournal

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

/// Logs to stderr in the form of `StandardError`; everything but plain information names its level.
package struct StandardErrorLog: LogHandler {
  package var logLevel: Logger.Level
  package var metadata: Logger.Metadata = [:]

  /// A handler that drops what is less important than `level`.
  package init(level: Logger.Level) { logLevel = level }

  package subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }

  package func log(event: LogEvent) {
    StandardError.printLine(Self.text(event.level, event.message.description))
  }

  /// The line without its prefix.
  package static func text(_ level: Logger.Level, _ message: String) -> String {
    level == .info || level == .notice ? message : "\(level.rawValue): \(message)"
  }

  /// A logger of the program.
  package static func logger(level: Logger.Level) -> Logger {
    Logger(label: "spillway") { _ in StandardErrorLog(level: level) }
  }
}

extension Logger {
  /// The journal's closure for its own lines.
  package var forJournal: JournalLog {
    { level, message in self.log(level: Level(level), "\(message)") }
  }
}

extension Logger.Level {
  /// The journal's level in the logger's terms.
  package init(_ level: JournalLogLevel) {
    self =
      switch level {
      case .debug: .debug
      case .info: .info
      case .warning: .warning
      case .error: .error
      }
  }
}
