import Bytes
import ExtentJournal
import Foundation
import TestKit
import Testing
import Threads

// Goal: an index that fails is built again while the journal goes on; nobody ever reads wrong data, or zeroes where there
// is data, and an index without room for more only waits.
// Method: transactions of the index are made to fail by number, or are held up; rows are damaged in LMDB's own file.

@Suite struct IndexRebuildTests {
  @Test("a commit that fails with EIO costs the index and nothing else", arguments: [1, 2, 3])
  func failedCommit(after: Int) throws {
    let setup = try IndexSetup()
    try setup.write(0..<20)
    try setup.fixture.journal.checkpoint()
    try setup.write(10..<40)
    // The commit fails, or the rebuild's own one does too.
    setup.plan.next([Int32](repeating: 5, count: after))
    for _ in 0..<after where after > 2 || setup.said("built again from the segments") == 0 {
      do { try setup.fixture.journal.checkpoint() } catch {}
    }
    try setup.write(40..<45)
    try setup.fixture.journal.flush()
    // The indexer itself builds the new index; this waits until it has.
    while setup.said("the index is built again, in") == 0 {
      do { try setup.fixture.journal.checkpoint() } catch {}
    }
    try setup.fixture.journal.checkpoint()
    try setup.check(0..<45)
    #expect(setup.said("building the index again from") >= 1)
    #expect(setup.said("% of") >= 1)
    #expect(setup.said("takes no more writes") == 0)
    setup.fixture.crash()
    try setup.fixture.open()
    try setup.check(0..<45)
    try setup.fixture.close()
    let output = setup.fixture.directory.file("out")
    let report = try Replay.toRawFile(
      from: JournalReader.open(setup.fixture.path), disk: "d", output: output)
    #expect(report.dataBytes == UInt64(45 * indexBlock))
  }

  @Test(
    "while the index is built again writes and flushes go on, what is known is read, what is not known waits")
  func reads() throws {
    let setup = try IndexSetup()
    try setup.write(0..<20)
    try setup.fixture.journal.checkpoint()
    try setup.write(20..<25)
    // The old tables lose most of block 4: the first entry of the second region shrinks to a sector.
    try setup.damageRows(disk: 1, regions: 1..<2) { row in
      row[5] &= 0xC0
      row[6] &= 0x0F
    }
    setup.plan.next([5])
    setup.plan.hold()
    let journal = setup.fixture.journal!
    let checkpoint = try #require(
      WorkerThread(name: "checkpoint") { do { try journal.checkpoint() } catch {} })
    setup.plan.waitUntilHeld()
    // From memory, from the old tables, and new in the ring.
    let known = [22, 3, 30]
    try setup.write(30..<31)
    try journal.flush()
    for number in known {
      let range = ByteRange(offset: UInt64(number * 2 * indexBlock), count: UInt64(indexBlock))
      #expect(try setup.fixture.disk.bytes(range) == indexPattern(number))
    }
    // What the old tables do not know is not taken for absent.
    let done = WakeCount()
    let disk = setup.fixture.disk
    let reader = try #require(
      WorkerThread(name: "reader") {
        let bytes: [UInt8]?
        do {
          bytes = try disk.bytes(ByteRange(offset: UInt64(8 * indexBlock), count: UInt64(indexBlock)))
        } catch { bytes = nil }
        done.add(bytes == indexPattern(4) ? .retry : .timedOut)
      })
    setup.plan.release()
    done.wait(for: 1)
    reader.join()
    checkpoint.join()
    #expect(done.all == [.retry], "data was taken for absent")
    try setup.check(0..<25)
    try setup.check(30..<31)
  }

  @Test("a malformed row is met by a read, which waits for the new index and gets the right bytes")
  func malformedRow() throws {
    let setup = try IndexSetup()
    try setup.write(0..<40)
    try setup.fixture.journal.checkpoint()
    try setup.damageRows(disk: 1, regions: 0..<3) { $0[0] = 0xEE }
    try setup.check(0..<40)
    #expect(setup.said("is malformed; it will be built again") == 1)
    #expect(setup.said("the index is built again, in") == 1)
    try setup.write(40..<42)
    try setup.fixture.journal.checkpoint()
    try setup.check(0..<42)
    #expect(setup.said("will be built again") == 1)
  }

  @Test("an index without room keeps what it has, memory serves the rest, and it goes on when space returns")
  func noSpace() throws {
    let setup = try IndexSetup()
    try setup.write(0..<10)
    try setup.fixture.journal.checkpoint()
    setup.plan.always(28)
    try setup.write(5..<20)
    #expect(throws: JournalError.self) { try setup.fixture.journal.checkpoint() }
    try setup.write(20..<25)
    #expect(throws: JournalError.self) { try setup.fixture.journal.checkpoint() }
    try setup.fixture.journal.flush()
    try setup.check(0..<25)
    setup.fixture.crash()
    setup.plan.always(0)
    try setup.fixture.open()
    try setup.check(0..<25)
    try setup.fixture.journal.checkpoint()
    try setup.check(0..<25)
    #expect(setup.said("built again") == 0)
  }

  @Test(
    "when the new index has no room either, what needs it fails and says so; space returns and it is built")
  func rebuildWithoutSpace() throws {
    let setup = try IndexSetup()
    try setup.write(0..<10)
    try setup.fixture.journal.checkpoint()
    setup.plan.next([5])
    setup.plan.always(28)
    #expect(throws: JournalError.self) { try setup.fixture.journal.checkpoint() }
    try setup.check(0..<9, gaps: false)
    setup.plan.always(0)
    while setup.said("the index is built again, in") == 0 {
      do { try setup.fixture.journal.checkpoint() } catch {}
    }
    try setup.check(0..<10)
  }

  @Test(
    "a journal that is closed with an abandoned index has a new one when it is opened",
    arguments: [false, true])
  func closing(byCrash: Bool) throws {
    let setup = try IndexSetup()
    try setup.write(0..<10)
    try setup.fixture.journal.checkpoint()
    try setup.write(10..<20)
    setup.plan.always(5)
    #expect(throws: JournalError.self) { try setup.fixture.journal.checkpoint() }
    if byCrash { setup.fixture.crash() } else { try setup.fixture.close() }
    #expect(throws: JournalError.self) { try JournalReader.open(setup.fixture.path) }
    setup.plan.always(0)
    try setup.fixture.open()
    #expect(setup.said("the index was abandoned") == 1)
    try setup.check(0..<20)
    try setup.fixture.close()
    _ = try JournalReader.open(setup.fixture.path)
  }

  @Test("a crash at any step of the switch to the new index leaves one of the two", arguments: [0, 1, 2])
  func switching(step: Int) throws {
    let setup = try IndexSetup()
    try setup.write(0..<20)
    try setup.fixture.close()
    let index = setup.fixture.path + "/index"
    let files = FileManager.default
    try files.copyItem(atPath: index, toPath: index + ".next")
    if step == 0 {
      // Still being built.
      try Data(repeating: 0, count: 100).write(to: URL(fileURLWithPath: index + ".next/data.mdb"))
    }
    if step > 0 { try files.moveItem(atPath: index, toPath: index + ".old") }
    if step > 1 { try files.moveItem(atPath: index + ".next", toPath: index) }
    try setup.fixture.open()
    try setup.check(0..<20)
    #expect(setup.said("again") == 0)
    #expect(!files.fileExists(atPath: index + ".next") && !files.fileExists(atPath: index + ".old"))
  }
}
