package import ExtentJournal
package import Logging
internal import NBDServer

/// Logs to stderr in the form of `StandardError`; everything but plain information names its level.
package struct StandardErrorLog: LogHandler {
  /// Required by swift-log, which drops what is below before `log` is called.
  package var logLevel: Logger.Level
  /// Required by swift-log; never printed.
  package var metadata: Logger.Metadata = [:]

  /// A handler that drops what is less important than `level`.
  package init(level: Logger.Level) { logLevel = level }

  /// Required by swift-log; it reads and writes `metadata`.
  package subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }

  /// Writes one line with one call, from any thread; a failure is ignored.
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

  /// The NBD server's.
  var forServer: ServerLog {
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

  /// The server's level in the logger's terms.
  init(_ level: ServerLogLevel) {
    self =
      switch level {
      case .debug: .debug
      case .info: .info
      case .warning: .warning
      case .error: .error
      }
  }
}
