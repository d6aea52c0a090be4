/// Why the source did not give what was asked of it.
package struct SourceError: Error, Sendable, Equatable {
  /// One sentence for whoever reads the disk; it names the source.
  package var message: String

  /// An error that says `message`.
  package init(message: String) { self.message = message }
}

extension SourceError: CustomStringConvertible {
  package var description: String { message }
}
