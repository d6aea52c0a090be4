import Foundation
import Testing

extension Tidy {
  /// What reviewers would otherwise have to look for.
  @Suite("the conventions") struct ConventionTests {
    @Test("the product ends a process nowhere by a shortcut: no try!, try? or fatalError")
    func shortcuts() throws {
      for file in try SourceTree.product.get() {
        #expect(file.places(of: /\btry[!?]|\bfatalError\(/) == [])
      }
    }

    @Test("the product holds no notes to self")
    func notes() throws {
      for file in try SourceTree.files("Sources") {
        let found = file.lines.indices.filter { file.lines[$0].contains(/\b(TODO|FIXME|XXX)\b/) }
        #expect(found.map(file.place) == [])
      }
    }

    @Test("tests use what everybody may use")
    func testable() throws {
      for file in try SourceTree.allSwift.get() { #expect(file.places(of: "@testable") == []) }
    }

    @Test("the name of a type says what it is, not that it is something")
    func names() throws {
      let empty =
        /\b(class|struct|enum|protocol|actor|typealias) (\w*(Manager|Helper|Util|Common|Impl)([A-Z]\w*|s)?)\b/
      for file in try SourceTree.allSwift.get() { #expect(file.places(of: empty) == []) }
    }

    @Test("unsafe expressions stand only where C is wrapped or memory is owned")
    func unsafeTargets() throws {
      let mayBeUnsafe: Set = [
        "Bytes", "Threads", "BlockFile", "Zstd", "LMDB", "ExtentJournal", "NBDServer", "NBDSource",
        "QEMUMonitor", "SpillwayService",
      ]
      var found: Set<String> = []
      for file in try SourceTree.product.get() {
        let places = file.places(of: /(?:^|[\s(\[,=!])unsafe\s/)
        if !places.isEmpty { found.insert(file.target) }
        #expect(mayBeUnsafe.contains(file.target) || places.isEmpty, "\(places)")
      }
      #expect(mayBeUnsafe.subtracting(found) == [], "no longer unsafe: take them off the list")
    }

    @Test("who vouches for Sendable says what guards it")
    func sendable() throws {
      for file in try SourceTree.product.get() {
        for index in file.codeLines.indices
        where file.codeLines[index].contains(/@unchecked Sendable|nonisolated\(unsafe\)/) {
          let next = file.lines[index...].prefix(4)
          #expect(next.contains { $0.contains("// Sendable") }, "\(file.place(index))")
        }
      }
    }

    @Test("what other targets may inline belongs to a type that they may inline")
    func inlinable() throws {
      for file in try SourceTree.product.get() {
        for index in file.codeLines.indices where file.codeLines[index].contains("@inlinable") {
          let type = file.codeLines[..<index].lastIndex {
            $0.contains(/^(?:package )?(?:final )?(?:struct|class|enum|protocol|extension)\s/)
          }
          guard let type, !file.codeLines[type].hasPrefix("extension") else { continue }
          #expect(
            type > 0 && file.codeLines[type - 1].contains("@usableFromInline"), "\(file.place(type))")
        }
      }
    }

    @Test("every type that other targets see is documented")
    func documentation() throws {
      let type =
        /^\s*(?:@\w+(?:\([^)]*\))?\s+)*(?:package|public)\s+(?:\w+\s+)*?(?:class|struct|enum|protocol|actor|typealias)\s+\w/
      for file in try SourceTree.allSwift.get() {
        for index in file.codeLines.indices where file.codeLines[index].contains(type) {
          // What fits in a line, cases and all, speaks for itself in a test.
          if file.path.hasPrefix("Tests/"), file.codeLines[index].hasSuffix("}") { continue }
          let above = file.lines[..<index].reversed().first { !$0.contains(/^\s*@/) } ?? ""
          #expect(above.contains(/^\s*\/\/\//), "\(file.place(index))")
        }
      }
    }

    @Test("every member that other targets see is documented, in sentences")
    func memberDocumentation() throws {
      let member =
        /^\s*(?:@\w+(?:\([^)]*\))?\s+)*(?:\w+\s+)*?(?:package|public)\s+(?:\w+(?:\(\w+\))?\s+)*?(?:init|func|var|let|subscript)\b/
      // What the standard library asks of a type has one meaning everywhere. Only these, and not what a protocol of
      // our own asks for: there an implementation has something to say.
      let required =
        /\b(?:func (?:==|<)|func hash\(into|func encode\(to|init\(from decoder|init\(rawValue|(?:let|var) rawValue|var description|init\(\w+Literal)/
      for file in try SourceTree.product.get() {
        for index in file.codeLines.indices
        where file.codeLines[index].contains(member) && !file.codeLines[index].contains(required) {
          let above = file.lines[..<index].reversed().drop { $0.contains(/^\s*@/) }
          let comment = above.prefix { $0.contains(/^\s*\/\/\//) }
          #expect(comment.contains { $0.contains(/\.(?:\s|$)/) }, "\(file.place(index))")
        }
      }
    }

    @Test("nothing names a place that only one machine has")
    func machinePaths() throws {
      // A clone right below / has a path that may mean something else.
      let clone = SourceTree.root.split(separator: "/").count > 1 ? [SourceTree.root + "/"] : []
      let places = ["/ho" + "me/", "/Us" + "ers/", "/ro" + "ot/"] + clone
      let files = try SourceTree.files(
        "Sources", "Tests", "docs", ".ci", "Makefile", "Package.swift", "README.md", "CHANGELOG.md")
      for file in files {
        let found = file.lines.indices.filter { index in places.contains { file.lines[index].contains($0) } }
        #expect(found.map(file.place) == [])
      }
    }
  }
}
