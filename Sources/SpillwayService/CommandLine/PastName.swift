/// A disk as it was at the end of a batch: `NAME@=SEQUENCE`.
package struct PastName: Equatable, Sendable {
  /// The name of the disk.
  package var disk: String
  /// The last sequence of the batch.
  package var sequence: UInt64

  /// Parses `text`; nil when it names no sequence (no `@=`). Throws `.usage` when what follows that is no number.
  package init?(parsing text: String, context: String) throws(ServiceError) {
    guard let at = text.lastIndex(of: "@"), text[text.index(after: at)...].hasPrefix("=") else { return nil }
    let digits = text[at...].dropFirst(2)
    guard let sequence = Self.number(digits) else {
      throw .usage("\(context): behind @= stands a sequence, a number that spillway log shows under batch")
    }
    disk = String(text[..<at])
    self.sequence = sequence
  }

  /// As the other, without words for what is wrong.
  init?(export name: String) {
    guard let at = name.lastIndex(of: "@"), name[name.index(after: at)...].hasPrefix("="),
      let sequence = Self.number(name[at...].dropFirst(2))
    else { return nil }
    disk = String(name[..<at])
    self.sequence = sequence
  }

  private static func number(_ digits: Substring) -> UInt64? {
    guard digits.utf8.allSatisfy({ (48...57).contains($0) }) else { return nil }
    return UInt64(digits)
  }
}
