import Foundation
import Glibc

/// One line on a terminal that says what is going on; nothing anywhere else.
enum Progress {
  private static let isTerminal = isatty(2) == 1

  /// Shows `text` in place of what was shown before.
  static func show(_ text: String) {
    if isTerminal { FileHandle.standardError.write(Data("\r\u{1b}[K\(text)".utf8)) }
  }

  /// Takes the line away.
  static func clear() { show("") }
}
