internal import CSupport
internal import Glibc

/// A screen that people look at.
package struct Terminal: Sendable {
  private let rows: Int
  private let columns: Int

  /// One of `rows` lines of `columns` characters.
  package init(rows: Int, columns: Int) {
    self.rows = rows
    self.columns = columns
  }

  /// What stdout is, if it is a terminal, as large as it is now.
  package static var ofStandardOutput: Terminal? {
    guard isatty(STDOUT_FILENO) == 1 else { return nil }
    let size = spw_terminal_size(STDOUT_FILENO)
    return Terminal(
      rows: size.rows > 0 ? Int(size.rows) : 24, columns: size.columns > 0 ? Int(size.columns) : 80)
  }

  /// What shows `text` from the top of the screen on and nothing else: lines are cut at its edge, and those below it left out.
  package func screen(_ text: String) -> String {
    let lines = text.split(separator: "\n", omittingEmptySubsequences: false).prefix(rows)
    // Each line is overwritten and its rest cleared: nothing flickers.
    return "\u{1B}[H" + lines.map { $0.prefix(columns) + "\u{1B}[K" }.joined(separator: "\r\n") + "\u{1B}[J"
  }
}
