import Bytes
import ExtentJournal
import Foundation
import TestKit
import Testing

// Goal: generations of a snapshot disk are opened, sealed and ended in order; an incremental one shows its base outside
// its bitmap and never inside; and none of it is lost by a crash, a close or the loss of the index.
// Method: a disk of sixteen blocks; each state is looked at live, after a crash, with a new index, and offline.

@Suite struct GenerationTests {
  typealias Setup = GenerationSetup

  /// Runs `check` now, after the index took everything, after a kill, after a clean close, and with a new index.
  private func inEveryLife(_ setup: Setup, _ check: (String) throws -> Void) throws {
    try check("live")
    try setup.journal.checkpoint()
    try check("indexed")
    setup.fixture.crash()
    try setup.fixture.open()
    try check("after a kill")
    try setup.fixture.close()
    try setup.fixture.open()
    try check("after a close")
    setup.fixture.crash()
    try setup.fixture.removeIndex()
    try setup.fixture.open()
    try check("with a new index")
    #expect(try setup.journal.status().damage == nil)
  }

  /// Three generations that stand on one another. No handle stays: each would keep its journal alive.
  private func chain(_ setup: Setup) throws {
    let tuesday = try setup.incremental("tuesday", on: "monday", bitmap: 2..<5)
    try setup.write(2..<4, 2, to: tuesday)
    try tuesday.writeZeroes(Setup.range(4..<5), mayTrim: true, durable: false).wake()
    try tuesday.preSeal(job: "job-2")
    try tuesday.seal()
    let wednesday = try setup.incremental("wednesday", on: "tuesday", bitmap: 3..<10)
    try setup.write(3..<4, 3, to: wednesday)
    try wednesday.writeZeroes(Setup.range(4..<9), mayTrim: true, durable: false).wake()
    try setup.write(9..<10, 3, to: wednesday)
    try wednesday.seal()
  }

  @Test("a chain of three shows each generation as it was, in every life and offline")
  func chain() throws {
    let setup = try Setup()
    try setup.full("monday")
    try chain(setup)
    let expected: [(String, [Int])] = [
      ("monday", [1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
      ("tuesday", [1, 1, 2, 2, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
      ("wednesday", [1, 1, 2, 3, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0]),
    ]
    try inEveryLife(setup) { life in
      for (name, versions) in expected {
        #expect(try setup.versions(name) == versions, "\(name), \(life)")
        let disk = try setup.journal.generation(of: "d", named: name)
        #expect(disk.isSealed && disk.isClosed && disk.isComplete && !disk.isPreSealed, "\(name), \(life)")
        let runs = try disk.status(Setup.range(0..<16), asWriter: false, limit: 40)
        let blocks = runs.flatMap { Array(repeating: $0.isHole, count: Int($0.byteCount / Setup.block)) }
        #expect(blocks == versions.map { $0 == 0 }, "\(name), \(life)")
      }
      #expect(setup.journal.disks.map(\.generationName) == ["wednesday"])
      #expect(try setup.versions("live") == expected[2].1)
      let status = try setup.journal.status().disks[0].generations
      #expect(status.map(\.name) == ["monday", "tuesday", "wednesday"], "the unused first one is hidden")
      #expect(status.map(\.state) == ["sealed", "sealed", "sealed"])
      #expect(status.map(\.base) == [nil, "monday", "tuesday"])
      #expect(status.map(\.tag) == [nil, "t", "t"])
      let seal = try setup.journal.generation(of: "d", named: "tuesday").sealRecord
      #expect(seal?.job == "job-2" && seal?.base == "monday" && seal?.kind == .incremental)
    }
    try setup.fixture.close()
    for (name, versions) in expected {
      let wanted = versions.enumerated().flatMap { index, version in
        version == 0
          ? [UInt8](repeating: 0, count: Int(Setup.block)) : Setup.content(UInt64(index), version)
      }
      #expect(try setup.image("d@\(name)") == wanted, "\(name) offline")
    }
    let report = try setup.verify()
    #expect(report.flawCount == 0, "\(report.flaws)")
    #expect(report.seals == 3 && report.dataBytes == (8 + 2 + 2) * Setup.block)
  }

  @Test("what is awaited inside the bitmap is waited for, whatever the base has there")
  func insideBitmap() throws {
    let setup = try Setup()
    try setup.full("monday")
    let disk = try setup.incremental("tuesday", on: "monday", bitmap: 2..<5)
    let wakes = WakeCount()
    #expect(try disk.view(Setup.range(2..<3), wake: wakes.add) == nil)
    #expect(try disk.view(Setup.range(1..<3)) == nil, "a range that begins outside and ends inside")
    #expect(try disk.view(Setup.range(0..<2)) != nil)
    #expect(throws: JournalError.self) { try disk.bytes(Setup.range(2..<3)) }
    try setup.write(2..<3, 2, to: disk)
    #expect(wakes.all.count == 1)
    #expect(try setup.versions("tuesday").prefix(5) == [1, 1, 2, nil, nil])
    #expect(failure { try disk.seal() } == .failed, "not everything has arrived")
    #expect(!disk.isClosed && !disk.isPreSealed)
  }

  @Test("a read that waits outside the bitmap is woken when the base is known to hold it")
  func bitmapArrives() throws {
    let setup = try Setup()
    try setup.full("monday")
    let disk = try setup.journal.begin("d", GenerationRequest(name: "t", kind: .incremental, base: "monday"))
    let wakes = WakeCount()
    #expect(try disk.view(Setup.range(6..<7), wake: wakes.add) == nil, "nobody knows yet whether it changes")
    try disk.fallToBase([Setup.range(4..<8)])
    #expect(wakes.all == [.retry])
    #expect(try disk.view(Setup.range(6..<7)) == Setup.content(6, 1))
  }

  @Test(
    "the bitmap fills only what had not arrived, so that it can be recorded again", arguments: [false, true])
  func bitmapAgain(isIndexed: Bool) throws {
    let setup = try Setup()
    try setup.full("monday")
    let disk = try setup.journal.begin("d", GenerationRequest(name: "t", kind: .incremental, base: "monday"))
    try setup.write(3..<5, 2, to: disk)
    if isIndexed { try setup.journal.checkpoint() }
    try disk.fallToBase([Setup.range(0..<16)])
    try disk.fallToBase([Setup.range(2..<16)])
    try disk.finishBitmap()
    #expect(try setup.versions("t") == [1, 1, 1, 2, 2, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0])
    try disk.seal()
    #expect(disk.sealRecord?.summary.baseBytes == 14 * Setup.block)
  }

  @Test(
    "a write outside the bitmap that agrees with the base is a retry, one that differs taints",
    arguments: [false, true])
  func writeOutside(agrees: Bool) throws {
    let setup = try Setup()
    try setup.full("monday")
    let disk = try setup.incremental("t", on: "monday", bitmap: 4..<5)
    let written = try setup.journal.status().writtenBytes
    try setup.write(1..<2, agrees ? 1 : 2, to: disk)
    #expect(try setup.journal.status().writtenBytes == written)
    #expect((disk.taintReason == nil) == agrees)
    if !agrees { #expect(disk.taintReason?.contains("outside the bitmap") == true) }
    try disk.writeZeroes(Setup.range(9..<10), mayTrim: false, durable: false).wake()
    #expect((disk.taintReason == nil) == agrees)
    #expect(failure { try disk.seal() } == .failed)
  }

  @Test("after a seal writes are refused, its connections stay with it, and the next one begins empty")
  func afterSeal() throws {
    let setup = try Setup()
    let first = setup.fixture.disk
    try setup.write(0..<16, 1, to: first)
    let slot = try first.reserve(Setup.range(0..<1))
    #expect(failure { _ = try setup.journal.begin("d", GenerationRequest(name: "next")) } == .usage)
    #expect(failure { try first.seal() } == .usage, "it has no name")
    try first.seal(as: "monday")
    #expect(first.generationName == "monday")
    slot.memory.copyBytes(from: Setup.content(0, 2))
    #expect(failure { _ = try slot.commit(durable: false) } == .notPermitted, "it was on its way")
    #expect(failure { try setup.write(0..<1, 1, to: first) } == .notPermitted, "not even a retry")
    #expect(
      failure { _ = try first.writeZeroes(Setup.range(0..<1), mayTrim: true, durable: false) }
        == .notPermitted)
    #expect(failure { _ = try first.trim(Setup.range(0..<1), durable: false) } == .notPermitted)
    #expect(first.taintReason == nil)
    #expect(try setup.versions("live").allSatisfy { $0 == 1 })
    let next = try setup.journal.begin("d", GenerationRequest(name: "tuesday", tag: "session"))
    #expect(next.tag == "session" && next.generationNumber == 2)
    #expect(setup.journal.disks[0].generationName == "tuesday")
    #expect(failure { try setup.write(0..<1, 2, to: first) } == .notPermitted)
    try setup.write(0..<1, 2, to: next)
    #expect(try setup.view("live", 0..<1) == Setup.content(0, 2))
    #expect(try setup.view("monday", 0..<1) == Setup.content(0, 1))
  }

  @Test(
    "what is absent of an ended or cow generation is an error that says why, even where zeroes are asked for")
  func closedAndAbsent() throws {
    let setup = try Setup {
      $0.unarrived = .wait
      $0.afterComplete = .zeroes
    }
    do {
      let cow = try setup.journal.begin("d", GenerationRequest(name: "look", kind: .cow))
      try setup.write(1..<2, 1, to: cow)
      let wakes = WakeCount()
      #expect(try cow.view(Setup.range(0..<1), wake: wakes.add) == nil)
      #expect(failure { try cow.seal() } == .failed, "what was not overwritten is not there")
      try cow.end("the inspection is over")
      #expect(wakes.all == [.retry])
    }
    try inEveryLife(setup) { life in
      let cow = try setup.journal.generation(of: "d", named: "look")
      #expect(cow.endReason == "the inspection is over", "\(life)")
      #expect(try cow.view(Setup.range(1..<2)) == Setup.content(1, 1), "\(life)")
      do {
        _ = try cow.view(Setup.range(0..<2))
        Issue.record("absent data was read, \(life)")
      } catch let error as JournalError {
        #expect(error.message.contains("the inspection is over"), "\(error)")
      }
      #expect(try cow.status(Setup.range(0..<1), asWriter: false, limit: 2).map(\.isHole) == [false])
      #expect(failure { try setup.write(0..<1, 1, to: cow) } == .notPermitted)
    }
    try setup.fixture.close()
    #expect(failure { _ = try setup.image("d@look") } == .failed)
    #expect(try setup.image("d@look", tainted: true).count == Int(Setup.byteCount))
  }

  @Test("a base must be sealed and untainted, names are unique and plain, and only one generation is open")
  func refusals() throws {
    let setup = try Setup()
    func refuses(_ request: GenerationRequest) -> JournalError.Kind? {
      failure { _ = try setup.journal.begin("d", request) }
    }
    for name in ["", "live", "a b", "a@b", "ä"] { #expect(refuses(GenerationRequest(name: name)) == .usage) }
    #expect(refuses(GenerationRequest(name: "i", kind: .incremental, base: "none")) == .usage)
    #expect(refuses(GenerationRequest(name: "i", kind: .incremental)) == .usage)
    #expect(refuses(GenerationRequest(name: "f", base: "none")) == .usage)
    #expect(refuses(GenerationRequest(name: "c", kind: .checkpoint)) == .usage)
    let first = try setup.journal.begin("d", GenerationRequest(name: "a"))
    #expect(refuses(GenerationRequest(name: "b")) == .usage, "a is open")
    try setup.write(0..<1, 1, to: first)
    try setup.write(0..<1, 2, to: first)
    #expect(first.taintReason != nil)
    let second = try setup.journal.begin("d", GenerationRequest(name: "b"))
    #expect(first.endReason?.contains("tainted") == true, "a tainted one is ended")
    #expect(
      failure { try second.fallToBase([]) } == .usage && failure { try second.finishBitmap() } == .usage)
    try second.end("cancelled")
    #expect(refuses(GenerationRequest(name: "a")) == .usage, "the name is taken")
    #expect(refuses(GenerationRequest(name: "i", kind: .incremental, base: "b")) == .usage, "not sealed")
    #expect(refuses(GenerationRequest(name: "i", kind: .incremental, base: "a")) == .failed, "tainted")
    #expect(failure { _ = try setup.journal.begin("none", GenerationRequest(name: "x")) } == .usage)
    try setup.fixture.makeDisk("device", byteCount: 1 << 20, mode: .device)
    #expect(failure { _ = try setup.journal.begin("device", GenerationRequest(name: "x")) } == .usage)
    #expect(
      failure { try setup.journal.generation(of: "device", named: "live").end("x") } == .usage)
    #expect(failure { _ = try setup.journal.generation(of: "d", named: "nope") } == .usage)
  }

  @Test("an unnamed generation that took a write is not thrown away", arguments: [false, true])
  func notUnused(isIndexed: Bool) throws {
    let setup = try Setup()
    try setup.write(0..<1, 1, to: setup.fixture.disk)
    if isIndexed {
      try setup.journal.checkpoint()
      try setup.fixture.close()
      try setup.fixture.open()
    }
    #expect(failure { _ = try setup.journal.begin("d", GenerationRequest(name: "x")) } == .usage)
    #expect(!setup.fixture.disk.isClosed)
    #expect(try setup.view("live", 0..<1) == Setup.content(0, 1))
  }

  @Test("pre-sealed generations are found again after a crash, and are sealed or ended then")
  func preSealed() throws {
    let setup = try Setup()
    do {
      let disk = try setup.journal.begin("d", GenerationRequest(name: "a", tag: "uuid"))
      try setup.write(0..<16, 1, to: disk)
      try disk.preSeal(job: "j")
      #expect(disk.isPreSealed && !disk.isClosed)
      // A retry changes nothing of what was summed up.
      try setup.write(3..<4, 1, to: disk)
    }
    setup.fixture.crash()
    try setup.fixture.open()
    let found = setup.journal.generations.filter(\.isPreSealed)
    #expect(found.map(\.name) == ["d"] && found.map(\.generationName) == ["a"])
    #expect(found.map(\.tag) == ["uuid"])
    try setup.fixture.disk.seal()
    #expect(setup.journal.generations.allSatisfy { !$0.isPreSealed })
    #expect(setup.fixture.disk.sealRecord?.job == "j")
    let next = try setup.journal.begin("d", GenerationRequest(name: "b"))
    try setup.write(0..<16, 2, to: next)
    try next.preSeal(job: "k")
    try next.end("the job failed")
    #expect(setup.journal.generations.allSatisfy { !$0.isPreSealed } && next.isClosed && !next.isSealed)
  }

  @Test("a contradiction after the pre-seal keeps the seal from being written")
  func taintAfterPreSeal() throws {
    let setup = try Setup()
    let disk = try setup.journal.begin("d", GenerationRequest(name: "a"))
    try setup.write(0..<16, 1, to: disk)
    try disk.preSeal(job: "")
    try setup.write(3..<4, 2, to: disk)
    #expect(failure { try disk.preSeal(job: "") } == .failed)
    #expect(failure { try disk.seal() } == .failed)
    #expect(!disk.isSealed)
  }

  @Test("a bitmap of a huge disk is a few rows, and survives every life")
  func hugeBitmap() throws {
    let fixture = try JournalFixture()
    let size: UInt64 = 64 << 30
    try fixture.makeDisk("d", byteCount: size, mode: .snapshot)
    do {
      let full = fixture.disk
      try full.writeZeroes(ByteRange(start: 0, end: size - 4096), mayTrim: true, durable: false).wake()
      try full.write([UInt8](repeating: 7, count: 4096), at: size - 4096)
      try full.seal(as: "full")
      let disk = try fixture.journal.begin(
        "d", GenerationRequest(name: "i", kind: .incremental, base: "full"))
      try disk.write([UInt8](repeating: 9, count: 4096), at: size / 2)
      try disk.fallToBase([ByteRange(start: 0, end: size)])
      try disk.finishBitmap()
      try disk.seal()
      #expect(disk.sealRecord?.summary.baseBytes == size - 4096)
    }
    try fixture.journal.checkpoint()
    #expect(try fixture.journal.status().indexBytes < 1 << 20)
    fixture.crash()
    try fixture.removeIndex()
    try fixture.open()
    let again = try fixture.journal.generation(of: "d", named: "i")
    #expect(try again.view(ByteRange(offset: size - 4096, count: 4096)) == [UInt8](repeating: 7, count: 4096))
    #expect(try again.view(ByteRange(offset: size / 2, count: 4096)) == [UInt8](repeating: 9, count: 4096))
    #expect(try again.view(ByteRange(offset: 8192, count: 512)) == [UInt8](repeating: 0, count: 512))
    let runs = try again.status(ByteRange(start: 0, end: size), asWriter: false, limit: 9)
    #expect(runs.map(\.isHole) == [true, false, true, false])
  }
}
