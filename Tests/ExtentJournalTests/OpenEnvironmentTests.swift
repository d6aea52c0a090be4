import Glibc
import LMDB
import TestKit
import Testing

/// LMDB's claim on its lock file belongs to the process: one that opens an environment twice breaks it for both.
@Suite struct OpenEnvironmentTests {
  private let directory: TemporaryDirectory

  init() throws { directory = try TemporaryDirectory() }

  private func make(_ name: String) throws -> String {
    let path = directory.file(name)
    try #require(mkdir(path, 0o700) == 0)
    return path
  }

  private func open(_ path: String, readOnly: Bool = false) throws -> LMDBEnvironment {
    try LMDBEnvironment(path: path, databases: 4, readOnly: readOnly)
  }

  @Test("a reader that comes and goes within a write leaves the writer its lock")
  func readerWithinWrite() throws {
    let path = try make("a")
    do {
      let writer = try open(path)
      let table = try writer.open("t", create: true)
      try writer.write { (transaction) throws(LMDBError) in
        try transaction.put(table, [1], [2])
        do {
          let reader = try LMDBEnvironment(path: path, databases: 4, readOnly: true)
          let same = try reader.open("t", create: false)
          let seen = try reader.beginRead().get(same, [1])
          #expect(seen == nil, "it is not committed")
        }
      }
      let reader = try open(path, readOnly: true)
      #expect(try reader.beginRead().get(reader.open("t", create: false), [1]) == [2])
    }
    // A lock that this thread had kept of the first file would be a pointer into memory that is gone.
    let other = try open(make("b"))
    let table = try other.open("t", create: true)
    try other.write { (transaction) throws(LMDBError) in try transaction.put(table, [3], [4]) }
    #expect(try other.beginRead().get(table, [3]) == [4])
  }

  @Test("the last to leave closes it, and what took its place is another one")
  func lastLeaves() throws {
    let path = try make("a")
    var first: LMDBEnvironment? = try open(path)
    let second = try open(path)
    let table = try second.open("t", create: true)
    first = nil
    try second.write { (transaction) throws(LMDBError) in try transaction.put(table, [1], [2]) }
    try #require(rename(path, directory.file("old")) == 0)
    let fresh = try open(make("a"))
    let empty = try fresh.open("t", create: true)
    #expect(try fresh.beginRead().get(empty, [1]) == nil)
    #expect(try second.beginRead().get(table, [1]) == [2])
    _ = first
  }

  @Test("what is open for reading only cannot be written, and says so")
  func readOnlyFirst() throws {
    let path = try make("a")
    _ = try open(path)
    let reader = try open(path, readOnly: true)
    do {
      _ = try open(path)
      Issue.record("it was opened for writing")
    } catch let error as LMDBError {
      #expect(error.code == EBUSY)
      #expect(error.description.contains("for writing while it is read"))
    }
    _ = reader
  }
}
