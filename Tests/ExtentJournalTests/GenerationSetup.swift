import Bytes
import ExtentJournal
import Foundation
import TestKit
import Testing

/// A disk whose generations are begun, filled and sealed, in blocks of 64 KiB.
struct GenerationSetup {
  static let block: UInt64 = 64 << 10
  static let blockCount: UInt64 = 16
  static let byteCount = blockCount * block

  let fixture: JournalFixture

  init(
    mode: DiskMode = .snapshot, options change: (inout JournalOptions) -> Void = { _ in },
    hooks: TestHooks = TestHooks()
  ) throws {
    fixture = try JournalFixture(change)
    fixture.host.hooks = hooks
    try fixture.close()
    try fixture.open()
    try fixture.makeDisk("d", byteCount: Self.byteCount, mode: mode)
  }

  var journal: Journal { fixture.journal }

  static func range(_ blocks: Range<UInt64>) -> ByteRange {
    ByteRange(start: blocks.lowerBound * block, end: blocks.upperBound * block)
  }

  /// What block `index` holds when it is written for the `version`-th time.
  static func content(_ index: UInt64, _ version: Int) -> [UInt8] {
    (0..<Int(block)).map { UInt8(truncatingIfNeeded: $0 / 5 &+ Int(index) &* 13 &+ version &* 71) | 1 }
  }

  func write(_ blocks: Range<UInt64>, _ version: Int, to disk: Disk) throws {
    for index in blocks { try disk.write(Self.content(index, version), at: index * Self.block) }
  }

  /// A sealed full generation: data in the first half, zeroes in the second.
  @discardableResult
  func full(_ name: String, version: Int = 1) throws -> Disk {
    let disk = try journal.begin("d", GenerationRequest(name: name))
    try write(0..<8, version, to: disk)
    try disk.writeZeroes(Self.range(8..<16), mayTrim: false, durable: false).wake()
    try disk.seal()
    return disk
  }

  /// An incremental generation on `base` whose bitmap holds `blocks` alone, open and without data.
  func incremental(_ name: String, on base: String, bitmap blocks: Range<UInt64>) throws -> Disk {
    let disk = try journal.begin("d", GenerationRequest(name: name, kind: .incremental, base: base, tag: "t"))
    try disk.fallToBase([Self.range(0..<blocks.lowerBound), Self.range(blocks.upperBound..<Self.blockCount)])
    try disk.finishBitmap()
    return disk
  }

  /// A chain on `monday`: each generation writes two blocks, from `place` of its number on. Returns the names, oldest
  /// first.
  @discardableResult
  func chain(_ count: Int, at place: (Int) -> Int = { $0 * 2 % 14 }) throws -> [String] {
    try full("monday")
    var names = ["monday"]
    for index in 1..<count {
      let first = UInt64(place(index))
      let disk = try incremental("day\(index)", on: names[index - 1], bitmap: first..<first + 2)
      try write(first..<first + 2, index % 8 + 1, to: disk)
      try disk.seal()
      names.append("day\(index)")
    }
    return names
  }

  func view(_ name: String, _ blocks: Range<UInt64>) throws -> [UInt8]? {
    try journal.generation(of: "d", named: name).view(Self.range(blocks))
  }

  /// The versions of the blocks as `name` shows them: 0 for zeroes.
  func versions(_ name: String) throws -> [Int?] {
    try (0..<Self.blockCount).map { index in
      guard let bytes = try view(name, index..<index + 1) else { return nil }
      if bytes.allSatisfy({ $0 == 0 }) { return 0 }
      return (1...9).first { bytes == Self.content(index, $0) } ?? -1
    }
  }

  /// Whether the blocks of `name` have the versions that are expected.
  func shows(_ name: String, _ versions: [Int]) throws -> Bool {
    for (index, version) in zip(0..<Self.blockCount, versions) {
      let wanted =
        version == 0 ? [UInt8](repeating: 0, count: Int(Self.block)) : Self.content(index, version)
      let isRight = try view(name, index..<index + 1) == wanted
      if !isRight { return false }
    }
    return true
  }

  func image(_ name: String, tainted: Bool = false) throws -> [UInt8] {
    let output = fixture.directory.file("out")
    _ = try Replay.toRawFile(
      from: JournalReader.open(fixture.path), disk: name, output: output, tainted: tainted)
    return Array(try Data(contentsOf: URL(fileURLWithPath: output)))
  }

  func verify() throws -> VerificationReport {
    try Verification.run(on: JournalReader.open(fixture.path), progress: { _, _ in })
  }
}
