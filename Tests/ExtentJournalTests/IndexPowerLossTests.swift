import Bytes
import ExtentJournal
import Foundation
import TestKit
import Testing
import WriteRecorder

// Goal: whenever the power goes, the index's file holds exactly one commit, none older than the last that returned; or,
// between the slices of a large commit, each region as the commit before or the one under way has it. And the journal
// that is opened over it reads as it did at its end.
// Method: LMDB writes past the simulated disk, so its writes and syncs are recorded on their way to libc through a long
// history. The file is then built again as a power loss at every event would leave it: everything up to there; the last
// write torn between sectors; any choice of the sectors that no sync had covered. Sectors of 512 bytes are whole or not
// there, which is what LMDB's own meta page relies on.

@Suite(.serialized) struct IndexPowerLossTests {
  @Test("the index survives a power loss at every write and sync of LMDB", arguments: seeds(1))
  func everyPrefix(seed: UInt64) throws {
    let history = try IndexHistory(seed: seed)
    let events = try history.run()
    let kinds = Dictionary(grouping: events, by: \.kind).mapValues(\.count)
    #expect(
      kinds[.write, default: 0] > 100 && kinds[.sync, default: 0] > 50,
      "\(kinds): hardly anything was recorded")
    #expect(kinds[.synchronousWrite, default: 0] > 50, "\(kinds): the meta pages are not written as expected")

    var examiner = try IndexExaminer(history)
    var file = LossyFile(seed: seed)
    for (number, event) in events.enumerated() {
      switch event.kind {
      case .mark:
        examiner.returned = event.offset
        try loseSome(file, &examiner, number)
        continue
      case .write, .synchronousWrite:
        for cut in file.cuts(of: event) {
          try examiner.examine(file.torn(event, after: cut), "event \(number), cut at \(cut)")
        }
        // A write that is durable by itself says nothing of those before it.
        if event.kind == .synchronousWrite { try loseSome(file, &examiner, number) }
      case .sync:
        try loseSome(file, &examiner, number)
      case .truncate: break
      }
      file.apply(event)
      try examiner.examine(file.whole, "event \(number)")
    }
    #expect(examiner.examined > 1000 && examiner.recovered > 10)
    #expect(examiner.slicesSeen > 0, "no commit was cut into slices: make the wide rounds wider")
  }

  private func loseSome(_ file: LossyFile, _ examiner: inout IndexExaminer, _ number: Int) throws {
    var file = file
    for choice in 0..<file.choiceCount {
      try examiner.examine(file.leftOver(choice), "event \(number), choice \(choice)")
    }
  }
}

/// What the index says, read back through LMDB.
private struct IndexState: Equatable {
  /// Disk and region.
  struct Place: Hashable {
    var disk: String
    var region: UInt64
  }
  struct Extent: Equatable {
    var range: SectorRange
    var placement: Placement
  }
  var sequence: UInt64 = 0
  var disks: [String] = []
  var regions: [Place: [Extent]] = [:]

  init() {}

  /// Of the journal in `directory`, whose segments need not be there.
  init(_ directory: String) throws {
    let reader = try JournalReader.open(directory)
    let status = try reader.status()
    sequence = status.lastSequence
    disks = status.disks.map(\.name)
    for disk in disks {
      var found: [Place: [Extent]] = [:]
      try reader.forEachExtent(of: disk) { range, placement in
        found[Place(disk: disk, region: range.start / 1024), default: []]
          .append(Extent(range: range, placement: placement))
      }
      regions.merge(found) { first, _ in first }
    }
  }

  /// Whether each region is as one of the two has it.
  func isBetween(_ old: IndexState, _ new: IndexState) -> Bool {
    disks == old.disks
      && Set(regions.keys).union(old.regions.keys).allSatisfy { place in
        regions[place] == old.regions[place] || regions[place] == new.regions[place]
      }
  }
}

/// A journal with two disks, many index commits, and what LMDB did meanwhile.
private final class IndexHistory {
  let directory: TemporaryDirectory
  var options = JournalOptions()
  private var random: SeededGenerator
  /// What the index said after each commit, by the last sequence in it.
  private(set) var states: [(mark: Int, state: IndexState)] = []
  private(set) var narrow = ModelDisk(sectorCount: IndexHistory.narrowSectors)
  /// Of the wide disk only single sectors are written: each with one byte, again and again.
  private(set) var wide: [UInt64: UInt8] = [:]

  /// Old states of the index are opened over the segments of the end: nothing may be freed.
  static let host = {
    var host = JournalHost()
    host.upkeepEveryNanoseconds = nil
    return host
  }()

  static let narrowSectors = 4096
  static let wideRegions: UInt64 = 4200
  var path: String { directory.file("j") }

  init(seed: UInt64) throws {
    random = SeededGenerator(seed: seed)
    directory = try TemporaryDirectory(in: "/dev/shm")
    options.spoolDirectory = directory.path
    options.spoolByteCount = 16 << 20
  }

  func run() throws -> [FileEvent] {
    write_recorder_start("\(path)/index/data.mdb")
    var journal: Journal! = try Journal.open(path, options: options, host: Self.host, log: { _, _ in })
    states.append((0, IndexState()))
    write_recorder_mark(0)
    let narrowDisk = try journal.disk("narrow", byteCount: narrow.byteCount, mode: .device)
    let wideDisk = try journal.disk("wide", byteCount: Self.wideRegions << 19, mode: .device)
    for round in 0..<66 {
      for _ in 0..<Int.random(in: 1...12, using: &random) { try change(narrowDisk) }
      if round % 15 == 4 { try fragment(narrowDisk) }
      if round % 15 == 9 { try unite(narrowDisk) }
      if round == 22 || round == 44 { try spread(wideDisk, byte: UInt8(round)) }
      try commit(journal, narrowDisk, wideDisk)
    }
    try journal.close()
    write_recorder_mark(Int64(states.count - 1))
    journal = nil
    return FileEvent.stopRecording()
  }

  private func change(_ disk: Disk) throws {
    let count = UInt64.random(in: 1...128, using: &random) * 512
    let start = UInt64.random(in: 0...(narrow.byteCount - count) / 512, using: &random) * 512
    let range = ByteRange(offset: start, count: count)
    switch Int.random(in: 0..<6, using: &random) {
    case 0:
      try disk.writeZeroes(range, mayTrim: false, durable: false).wake()
      narrow.zero(range)
    case 1:
      try disk.trim(range, durable: false).wake()
      narrow.trim(range)
    default: try write(disk, .random(in: 1 ... .max, using: &random), range)
    }
  }

  private func write(_ disk: Disk, _ byte: UInt8, _ range: ByteRange) throws {
    let bytes = [UInt8](repeating: byte, count: Int(range.count))
    try disk.write(bytes, at: range.start)
    narrow.write(bytes, at: range.start)
  }

  /// So many pieces that the region's row is split.
  private func fragment(_ disk: Disk) throws {
    let region = UInt64.random(in: 0..<4, using: &random)
    for piece in 0..<400 as Range<UInt64> {
      try write(disk, UInt8(piece % 255) + 1, ByteRange(offset: region << 19 + piece * 1024, count: 512))
    }
  }

  /// One piece again, for which LMDB deletes rows.
  private func unite(_ disk: Disk) throws {
    for region in 0..<4 as Range<UInt64> {
      try write(disk, UInt8(region) + 7, ByteRange(offset: region << 19, count: 512 << 10))
    }
  }

  /// More regions than one transaction takes.
  private func spread(_ disk: Disk, byte: UInt8) throws {
    for region in 0..<Self.wideRegions where region % 2 == 0 || byte > 30 {
      try disk.write([UInt8](repeating: byte, count: 512), at: region << 19)
      wide[region << 19] = byte
    }
  }

  /// Commits the index and notes what it says: first the journal itself is asked, which has everything from the index now.
  private func commit(_ journal: Journal, _ narrowDisk: Disk, _ wideDisk: Disk) throws {
    try journal.checkpoint()
    write_recorder_mark(Int64(states.count))
    try check(narrowDisk, wideDisk, wideStep: 97)
    // A file that is open in LMDB must not be opened twice by one process: a copy is.
    let copy = directory.file("copy")
    try FileManager.default.createDirectory(atPath: copy + "/index", withIntermediateDirectories: true)
    try FileManager.default.createDirectory(atPath: copy + "/segments", withIntermediateDirectories: true)
    for name in ["journal", "index/data.mdb"] {
      try Data(contentsOf: URL(fileURLWithPath: "\(path)/\(name)")).write(
        to: URL(fileURLWithPath: "\(copy)/\(name)"))
    }
    states.append((states.count, try IndexState(copy)))
  }

  /// Compares the disks with what was written.
  func check(_ narrowDisk: Disk, _ wideDisk: Disk, wideStep: Int) throws {
    let whole = ByteRange(start: 0, end: narrow.byteCount)
    #expect(try narrowDisk.bytes(whole) == narrow.read(whole))
    let places = wide.keys.sorted()
    for place in stride(from: 0, to: places.count, by: wideStep) {
      let bytes = try wideDisk.bytes(ByteRange(offset: places[place], count: 512))
      #expect(bytes.allSatisfy { $0 == wide[places[place]] }, "byte \(places[place]) of the wide disk")
    }
  }
}

/// Opens what a power loss left and compares it with the history.
private struct IndexExaminer {
  private let history: IndexHistory
  private let place: TemporaryDirectory
  /// The last commit that had returned; -1 before the environment was made.
  var returned = -1
  private(set) var examined = 0
  private(set) var recovered = 0
  private(set) var slicesSeen = 0

  init(_ history: IndexHistory) throws {
    self.history = history
    place = try TemporaryDirectory(in: "/dev/shm")
    for name in ["index", "segments"] {
      try FileManager.default.createDirectory(
        atPath: place.file("j/\(name)"), withIntermediateDirectories: true)
    }
    try copyJournal(to: place.file("j"))
  }

  private func copyJournal(to target: String) throws {
    try? FileManager.default.removeItem(atPath: target + "/journal")
    try FileManager.default.copyItem(atPath: history.path + "/journal", toPath: target + "/journal")
  }

  mutating func examine(_ file: [UInt8], _ what: String) throws {
    examined += 1
    try store(file, in: place.file("j"))
    do {
      let state = try IndexState(place.file("j"))
      let index = history.states.firstIndex { $0.state.sequence == state.sequence }
      let found = try #require(index, "\(what): sequence \(state.sequence) is of no commit")
      #expect(found >= returned, "\(what): commit \(found) came back, \(returned) had returned")
      let old = history.states[found].state
      if state != old {
        slicesSeen += 1
        let next = try #require(history.states.dropFirst(found + 1).first, "\(what): rows of no commit")
        #expect(next.mark <= returned + 1 && state.isBetween(old, next.state), "\(what): rows of no commit")
      }
      if examined % 150 == 0 { try recover(file, what) }
    } catch let error as JournalError {
      // Only an environment that was never whole may fail to open; the journal then makes it anew.
      #expect(returned < 0 && error.kind == .damaged, "\(what): \(error)")
      if examined % 5 == 0 { try recover(file, what) }
    }
  }

  private func store(_ file: [UInt8], in directory: String) throws {
    try? FileManager.default.removeItem(atPath: directory + "/index/lock.mdb")
    try Data(file).write(to: URL(fileURLWithPath: directory + "/index/data.mdb"))
  }

  /// The journal over this index reads as it did at its end.
  private mutating func recover(_ file: [UInt8], _ what: String) throws {
    recovered += 1
    let directory = try TemporaryDirectory(in: "/dev/shm")
    let path = directory.file("j")
    try FileManager.default.createDirectory(atPath: path + "/index", withIntermediateDirectories: true)
    try FileManager.default.copyItem(atPath: history.path + "/segments", toPath: path + "/segments")
    try copyJournal(to: path)
    try store(file, in: path)
    var options = history.options
    options.spoolDirectory = directory.path
    let journal = try Journal.open(path, options: options, host: IndexHistory.host, log: { _, _ in })
    defer { journal.abandon() }
    let narrow = try journal.disk("narrow", byteCount: nil, mode: nil)
    let wide = try journal.disk("wide", byteCount: nil, mode: nil)
    try history.check(narrow, wide, wideStep: 97)
  }
}
