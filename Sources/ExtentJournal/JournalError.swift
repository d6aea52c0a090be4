/// Why the journal could not do what it was asked. The command line turns the case into the exit code and
/// `message` into the one line that the user sees.
package struct JournalError: Error, Sendable {
  /// What kind of failure, in the order of the exit codes.
  package enum Kind: Sendable, Equatable {
    /// The work failed: I/O error, no space, poisoned journal (exit 1).
    case failed
    /// The request contradicts the journal: wrong size, wrong mode (exit 2).
    case usage
    /// The journal is damaged, or acknowledged data in its spool is lost (exit 3).
    case damaged
    /// Another process has the journal open (exit 4).
    case inUse
    /// The disk is full; goes on when space returns (exit 1).
    case noSpace
    /// The generation takes no more writes: it is sealed, or was ended (exit 1).
    case notPermitted
    /// The journal is being closed: nobody should be told, whoever asked may ask the next owner.
    case closing
  }

  /// What the exit code and the wire error are made from.
  package var kind: Kind
  /// One sentence without a full stop: what, where, and what to do.
  package var message: String

  /// An error whose `message` others may wrap in a longer line: no full stop.
  package init(_ kind: Kind, _ message: String) {
    self.kind = kind
    self.message = message
  }

  static let closing = JournalError(.closing, "the journal is being closed")
}
