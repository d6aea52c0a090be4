package import ExtentJournal

/// What the process tells the shell when it ends; scripts depend on the numbers.
package enum ExitStatus: Int32, Sendable, CaseIterable {
  /// The work is done.
  case done = 0
  /// The work was possible and failed: I/O error, no space, no daemon to ask.
  case failed = 1
  /// The command line asks for something that makes no sense, alone or for this journal.
  case usage = 2
  /// The journal is damaged, or acknowledged data in its spool is lost.
  case damaged = 3
  /// Another process has the journal open.
  case inUse = 4

  /// The name that travels over the admin socket, so that the tool's exit status is the daemon's verdict.
  package var word: String {
    switch self {
    case .done: "done"
    case .failed: "failed"
    case .usage: "usage"
    case .damaged: "damaged"
    case .inUse: "in-use"
    }
  }

  /// The status that `word` names; an unknown word is a failure like any other.
  package init(word: String) {
    self = Self.allCases.first { $0.word == word } ?? .failed
  }
}

/// Why a command ends without its work being done: the exit status and the one line for the user.
package struct ServiceError: Error, Sendable, Equatable {
  /// What the shell gets.
  package var status: ExitStatus
  /// One sentence without a full stop: what, where, and what to do.
  package var message: String

  /// A failure with its line.
  package init(_ status: ExitStatus, _ message: String) {
    self.status = status
    self.message = message
  }

  /// The journal's verdict, as the shell learns of it.
  package init(_ error: JournalError) {
    let status: ExitStatus =
      switch error.kind {
      case .failed, .noSpace, .notPermitted, .closing: .failed
      case .usage: .usage
      case .damaged: .damaged
      case .inUse: .inUse
      }
    self.init(status, error.message)
  }

  /// A wrong command line.
  package static func usage(_ message: String) -> ServiceError { ServiceError(.usage, message) }

  /// Work that failed.
  package static func failed(_ message: String) -> ServiceError { ServiceError(.failed, message) }
}

/// Runs `body` and gives the journal's errors the shape that the command line reports.
func reportingJournalErrors<Result>(
  _ body: () throws(JournalError) -> Result
) throws(ServiceError) -> Result {
  do throws(JournalError) { return try body() } catch { throw ServiceError(error) }
}
