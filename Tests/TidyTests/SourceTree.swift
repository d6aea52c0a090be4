import Foundation
import Testing

// Goal: what the manifest cannot hold the sources to is held here.
// Method: ordinary tests read the files of this clone, found from where this one was compiled.

/// Conventions that a compiler does not know.
@Suite("tidy") struct Tidy {}

/// The text files of the clone that these tests were built from.
enum SourceTree {
  static let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent().path

  /// Everything below these folders or at these paths, by path; golden files and what fuzzers start from are bytes, not text.
  static func files(_ places: String...) throws -> [SourceFile] {
    let found = try places.flatMap { place in
      try #require(FileManager.default.fileExists(atPath: "\(root)/\(place)"), "\(place) is gone")
      guard isFolder(place) else { return [place] }
      return FileManager.default.enumerator(atPath: "\(root)/\(place)")?.compactMap { $0 as? String }
        .map { "\(place)/\($0)" } ?? []
    }
    let texts = found.sorted().filter { path in
      !isFolder(path) && !["/Golden/", "/Corpus/"].contains { path.contains($0) }
    }
    return try texts.map { path in
      SourceFile(path: path, text: try String(contentsOfFile: "\(root)/\(path)", encoding: .utf8))
    }
  }

  private static func isFolder(_ place: String) -> Bool {
    var isFolder: ObjCBool = false
    return FileManager.default.fileExists(atPath: "\(root)/\(place)", isDirectory: &isFolder)
      && isFolder.boolValue
  }

  /// The Swift files of the product.
  static let product = Result { try files("Sources").filter { $0.path.hasSuffix(".swift") } }
  /// The Swift files of the product and of its tests.
  static let allSwift = Result { try files("Sources", "Tests").filter { $0.path.hasSuffix(".swift") } }
}

/// A file, its lines, and the same lines with comments and the insides of literals blanked.
struct SourceFile: Sendable {
  let path: String
  let text: String
  let lines: [Substring]
  let codeLines: [String]

  init(path: String, text: String) {
    (self.path, self.text) = (path, text)
    lines = text.split(separator: "\n", omittingEmptySubsequences: false)
    var isInLongLiteral = false
    codeLines = lines.map { code(of: $0, &isInLongLiteral) }
  }

  /// The target it belongs to.
  var target: String { String(path.split(separator: "/").dropFirst().first ?? "") }

  /// Where line `index` is, for messages.
  func place(_ index: Int) -> String {
    "\(path):\(index + 1): \(lines[index].trimmingCharacters(in: .whitespaces))"
  }

  /// The places of the code lines that have `part`.
  func places(of part: String) -> [String] {
    codeLines.indices.filter { codeLines[$0].contains(part) }.map(place)
  }

  /// The places of the code lines that match.
  func places<Output>(of pattern: Regex<Output>) -> [String] {
    codeLines.indices.filter { codeLines[$0].firstMatch(of: pattern) != nil }.map(place)
  }
}

/// `line` without its comment and without what is between quotes; good enough for formatted code.
private func code(of line: Substring, _ isInLongLiteral: inout Bool) -> String {
  var code = ""
  var isInLiteral = false
  var rest = line
  while let next = rest.first {
    if !isInLiteral, rest.hasPrefix("\"\"\"") {
      isInLongLiteral.toggle()
      rest = rest.dropFirst(3)
    } else if isInLongLiteral {
      rest = rest.dropFirst()
    } else if isInLiteral, next == "\\" {
      rest = rest.dropFirst(2)
    } else if next == "\"" {
      isInLiteral.toggle()
      code.append(next)
      rest = rest.dropFirst()
    } else if isInLiteral {
      rest = rest.dropFirst()
    } else if rest.hasPrefix("//") {
      break
    } else {
      code.append(next)
      rest = rest.dropFirst()
    }
  }
  return code
}
