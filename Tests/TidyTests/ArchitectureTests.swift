import Foundation
import Testing

extension Tidy {
  /// SwiftPM does not catch an import of what a dependency depends on; this does.
  @Suite("the architecture") struct ArchitectureTests {
    /// What is no room of the house: it comes with the toolchain, or is a container without I/O.
    private static let ground: Set = ["Glibc", "Synchronization"]
    private let table: ArchitectureTable

    init() throws { table = try ArchitectureTable() }

    @Test("the table of docs/architecture.md has a row for every target, in the order of the manifest")
    func rows() throws {
      let folders = Set(try SourceTree.files("Sources").map(\.target))
      #expect(Set(table.targets) == folders)
      let manifest = try SourceTree.files("Package.swift")[0].text
      let order = manifest.matches(of: /name: "(\w+)"/).map { String($0.output.1) }.filter(folders.contains)
      var seen: Set<String> = []
      // The first name of the manifest is that of the product, which is last in the table.
      #expect(order.reversed().filter { seen.insert($0).inserted }.reversed() == table.targets)
    }

    @Test("imports go down only, as the table says")
    func imports() throws {
      for file in try SourceTree.product.get() {
        let allowed = try #require(table.mayImport[file.target], "\(file.target) is not in the table")
        for (index, module) in imports(of: file) {
          #expect(
            allowed.union(Self.ground).contains(module),
            "\(file.target) may import \(allowed.sorted()): \(file.place(index))")
        }
      }
    }

    @Test("each C library is imported by exactly one target")
    func libraries() throws {
      let manifest = try SourceTree.files("Package.swift")[0].text
      for library in manifest.matches(of: /systemLibrary\(name: "(\w+)"/).map({ String($0.output.1) }) {
        let importers = try SourceTree.product.get().filter { file in
          imports(of: file).contains { $0.module == library }
        }
        #expect(Set(importers.map(\.target)).count == 1, "\(library): \(importers.map(\.path))")
      }
    }

    @Test("no Foundation on the way of the data")
    func foundation() throws {
      let dataPath: Set = [
        "Bytes", "Threads", "BlockFile", "Zstd", "LMDB", "Extents", "ExtentJournal", "NBDProtocol",
        "NBDServer", "NBDSource",
      ]
      #expect(dataPath.isSubset(of: table.targets))
      for file in try SourceTree.product.get() where dataPath.contains(file.target) {
        for (index, module) in imports(of: file) {
          #expect(!module.hasPrefix("Foundation"), "\(file.place(index))")
        }
      }
    }

    private func imports(of file: SourceFile) -> [(index: Int, module: String)] {
      let pattern =
        /^\s*(?:@\w+(?:\(\w+\))?\s+)*(?:\w+\s+)?import\s+(?:(?:struct|class|enum|func|protocol|typealias|var|let)\s+)?(\w+)/
      return file.codeLines.enumerated().compactMap { (index, line) in
        line.firstMatch(of: pattern).map { (index, String($0.output.1)) }
      }
    }
  }
}

/// The table "Targets" of docs/architecture.md: who may import whom.
///
/// Words with a capital in its third column are targets and what comes from outside; "all above" are the rows before
/// and, if one of them has it, Foundation; "their C target" is `CName` for `Name`.
struct ArchitectureTable {
  private(set) var targets: [String] = []
  private(set) var mayImport: [String: Set<String>] = [:]

  init() throws {
    let page = try SourceTree.files("docs/architecture.md")[0]
    let rows = page.lines.drop { !$0.hasPrefix("| target | is | may import |") }.dropFirst(2)
      .prefix { $0.hasPrefix("|") }
    for row in rows {
      let cells = row.split(separator: "|").map(String.init)
      try #require(cells.count == 3, "a row of three cells: \(row)")
      let names = cells[0].matches(of: /`(\w+)`/).map { String($0.output.1) }
      for name in names {
        var allowed = Set(cells[2].matches(of: /\b([A-Z]\w+)\b/).map { String($0.output.1) })
        if cells[2].contains("all above") {
          allowed.formUnion(targets)
          if mayImport.values.contains(where: { $0.contains("Foundation") }) { allowed.insert("Foundation") }
        }
        if cells[2].contains("their C target") { allowed.insert("C\(name)") }
        if allowed.contains("Foundation") { allowed.insert("FoundationEssentials") }
        mayImport[name] = allowed
      }
      targets += names
    }
    try #require(targets.count > 10, "the table of targets is not where it was")
  }
}
