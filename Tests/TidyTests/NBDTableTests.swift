import Foundation
import Testing

extension Tidy {
  /// Goal: docs/nbd.md says of no rule that a test holds it which does not exist.
  /// Method: the column `test` of each of its tables is read: a word is a suite, what stands between backticks behind it are
  /// functions of that suite, and `EndToEnd` before a suite says where it lies. A cell that begins with "none:" gives
  /// the reason.
  @Suite("the table of NBD's rules") struct NBDTableTests {
    @Test("names only tests that exist")
    func tests() throws {
      let sources = try SourceTree.files("Tests")
      var (missing, found): ([String], Int) = ([], 0)
      for cell in try cells() where !cell.text.hasPrefix("none:") {
        var (folder, suites): (String, [SourceFile]) = ("", [])
        for match in cell.text.matches(of: /`(?<name>[^`]+)`|(?<suite>\w+)/) {
          if let name = match.output.name {
            found += 1
            if !suites.contains(where: { $0.text.contains("func \(name)(") }) {
              missing.append("\(cell.place): \(name)")
            }
          } else if let suite = match.output.suite {
            if suite == "EndToEnd" {
              folder = "/EndToEndTests"
              continue
            }
            suites = sources.filter { $0.path.hasSuffix("\(folder)/\(suite)Tests.swift") }
            folder = ""
            if suites.isEmpty { missing.append("\(cell.place): \(suite)") }
          }
        }
      }
      #expect(missing == [])
      #expect(found > 80, "the tables were not read")
    }

    /// The cells of the column `test`, and where they are.
    private func cells() throws -> [(place: String, text: String)] {
      let file = try #require(try SourceTree.files("docs/nbd.md").first)
      var column: Int?
      var cells: [(String, String)] = []
      for (index, line) in file.lines.enumerated() {
        let row = line.split(separator: "|", omittingEmptySubsequences: false).map {
          $0.trimmingCharacters(in: .whitespaces)
        }
        if !line.hasPrefix("|") {
          column = nil
        } else if let column, !line.hasPrefix("|--") {
          cells.append(("docs/nbd.md:\(index + 1)", row[column]))
        } else if column == nil {
          let found: Int = try #require(row.firstIndex(of: "test"), "a table without tests")
          column = found
        }
      }
      return cells
    }
  }
}
