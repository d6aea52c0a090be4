import Bytes
import ExtentJournal
import TestKit
import Testing

// Goal: what is written is what is read, and nothing else is believed.
// Method: round trips of seeded random values, every single flipped bit, and the tables of docs/format.md to the byte.

private let layer = LayerKey(disk: DiskID(number: 3), generation: GenerationID(number: 7))

/// Calls `body` with each copy of `bytes` that has one bit flipped.
private func forEachFlip(_ bytes: [UInt8], _ body: ([UInt8], Int) -> Void) {
  for bit in 0..<bytes.count * 8 {
    var flipped = bytes
    flipped[bit / 8] ^= 1 << (bit % 8)
    body(flipped, bit)
  }
}

private func encoded(_ byteCount: Int, _ body: (inout MutableRawSpan) -> Void) -> [UInt8] {
  let buffer = AlignedBuffer(byteCount: byteCount)
  var span = buffer.mutableBytes
  span.zero()
  body(&span)
  return Array(buffer.raw)
}

@Suite struct FormatTests {
  @Test("an index entry takes 96 bits and gives back every value that it may hold")
  func entries() {
    var random = SeededGenerator(seed: 5)
    var cases: [IndexEntry] = [
      IndexEntry(start: 0, count: 1024, placement: .zero),
      IndexEntry(start: 1023, count: 1, placement: .trim),
      IndexEntry(start: 0, count: 1, placement: .base), IndexEntry(start: 5, count: 1019, placement: .base),
      IndexEntry(
        start: 1, count: 1023,
        placement: .frame(
          FrameAddress(segment: FrameAddress.segmentMax, granule: (1 << 22) - 1, kibibytes: 511), skip: 511)),
    ]
    for _ in 0..<2000 {
      let start = UInt16.random(in: 0..<1024, using: &random)
      let address = FrameAddress(
        segment: .random(in: 0...FrameAddress.segmentMax, using: &random),
        granule: .random(in: 0..<1 << 22, using: &random), kibibytes: .random(in: 0...511, using: &random))
      cases.append(
        IndexEntry(
          start: start, count: .random(in: 1...1024 - start, using: &random),
          placement: .frame(address, skip: .random(in: 0..<512, using: &random))))
    }
    for entry in cases {
      let bits = entry.bits
      #expect(IndexEntry(high: bits.high, low: bits.low) == entry)
    }
    #expect(IndexEntry(high: 0, low: 0) == nil, "kind 0 is no entry")
  }

  @Test("each field of an index entry has its bits for itself, and none is left over")
  func entryBits() {
    func bits(
      _ start: UInt16, _ count: UInt16, _ segment: UInt64, _ granule: UInt32, _ size: UInt16, _ skip: UInt32
    )
      -> [UInt64]
    {
      let address = FrameAddress(segment: segment, granule: granule, kibibytes: size)
      let bits = IndexEntry(start: start, count: count, placement: .frame(address, skip: skip)).bits
      return [bits.high, UInt64(bits.low)]
    }
    let none = bits(0, 1, 0, 0, 0, 0)
    // Every field at its limit, with all others at 0: the bits are those of the table, and no two fields share one. A run
    // that begins late is short, so first sector and sectors cannot both be at their limits.
    let fields = [
      bits(1023, 1, 0, 0, 0, 0), bits(0, 1024, 0, 0, 0, 0), bits(0, 1, FrameAddress.segmentMax, 0, 0, 0),
      bits(0, 1, 0, (1 << 22) - 1, 0, 0), bits(0, 1, 0, 0, 511, 0), bits(0, 1, 0, 0, 0, 511),
    ].map { [$0[0] ^ none[0], $0[1] ^ none[1]] }
    let widths = [10, 10, 34, 22, 9, 9]
    for (field, width) in zip(fields, widths) {
      #expect(field[0].nonzeroBitCount + field[1].nonzeroBitCount == width)
    }
    let kinds = UInt64(3) << 42
    for half in 0...1 {
      let union = fields.reduce(half == 0 ? kinds : 0) { $0 | $1[half] }
      let sum = fields.reduce(half == 0 ? 2 : 0) { $0 + $1[half].nonzeroBitCount }
      #expect(union.nonzeroBitCount == sum, "two fields share a bit")
      #expect(union == (half == 0 ? .max : UInt64(UInt32.max)), "a bit belongs to no field")
    }
    let zero = IndexEntry(start: 0, count: 1, placement: .zero).bits.high
    let trim = IndexEntry(start: 0, count: 1, placement: .trim).bits.high
    #expect((none[0] | zero | trim) & ~kinds == 0)
  }

  @Test("a region in 1,024 pieces with every field at its limit is eight full parts, and comes back")
  func worstSplit() {
    let entries = (0..<1024 as Range<UInt16>).map { sector in
      // Neighbours differ by their skip, so that none join.
      IndexEntry(
        start: sector, count: 1,
        placement: .frame(
          FrameAddress(segment: FrameAddress.segmentMax, granule: (1 << 22) - 1, kibibytes: 511),
          skip: sector % 2 == 0 ? 511 : 0))
    }
    #expect(RegionRow.merge([], entries) == entries)
    let rows = RegionRow.encode(entries)
    #expect(rows.map(\.part) == Array(0...8))
    #expect(rows.map(\.value.count) == [4] + [Int](repeating: 4 + 128 * 12, count: 8))
    let largest = RegionRow.encode(Array(entries.prefix(RegionRow.entriesMax)))
    #expect(largest.count == 1 && largest[0].value.count == 4 + 160 * 12 && largest[0].value.count <= 2014)
    #expect(RegionRow.key(layer, region: 1 << 38, part: 8).count == 16)
    #expect(rows.flatMap { RegionRow.decode($0.value.span.bytes) ?? [] } == entries)
  }

  @Test("a row never passes what LMDB keeps in a page, however fragmented its region")
  func rowSizes() {
    for pieces in [1, 8, 160, 161, 512, 1024] {
      let size = UInt16(1024 / pieces)
      let entries = (0..<UInt16(pieces)).map {
        IndexEntry(start: $0 * size, count: size, placement: $0 % 2 == 0 ? .zero : .trim)
      }
      let rows = RegionRow.encode(entries)
      #expect(rows.allSatisfy { $0.value.count <= 2014 })
      #expect(rows.count == (pieces > RegionRow.entriesMax ? 9 : 1))
      let decoded = rows.flatMap { RegionRow.decode($0.value.span.bytes) ?? [] }
      #expect(RegionRow.merge([], decoded) == RegionRow.merge([], entries))
    }
  }

  @Test("merging rows agrees with an array of sectors", arguments: [1, 2, 3])
  func merges(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    var row: [IndexEntry] = []
    var model = [Placement?](repeating: nil, count: 1024)
    for step in 0..<400 {
      var new: [IndexEntry] = []
      var position = 0
      for _ in 0..<Int.random(in: 1...6, using: &random) {
        position += Int.random(in: 0...120, using: &random)
        let count = Int.random(in: 1...100, using: &random)
        guard position + count <= 1024 else { break }
        let address = FrameAddress(segment: UInt64(step) + 1, granule: UInt32(position), kibibytes: 4)
        let placement: Placement = Bool.random(using: &random) ? .frame(address, skip: 0) : .zero
        new.append(IndexEntry(start: UInt16(position), count: UInt16(count), placement: placement))
        for sector in 0..<count { model[position + sector] = placement.advanced(by: UInt64(sector)) }
        position += count
      }
      row = RegionRow.merge(row, new)
      var cells = [Placement?](repeating: nil, count: 1024)
      for entry in row {
        for sector in 0..<Int(entry.count) {
          cells[Int(entry.start) + sector] = entry.placement.advanced(by: UInt64(sector))
        }
      }
      #expect(cells == model, "seed \(seed), step \(step)")
    }
  }

  @Test("a frame header comes back as it was, and not at all with a bit flipped or at another place")
  func frames() {
    let header = FrameHeader(
      codec: .zstd, level: -5, layer: layer, storedByteCount: 1000, payloadChecksum: 0x1122_3344_5566_7788,
      extents: [
        FrameExtent(range: SectorRange(start: (1 << 47) + 5, count: 8), sequence: 1 << 60),
        FrameExtent(range: SectorRange(start: (1 << 47) + 20, count: 2), sequence: 9),
      ])
    let bytes = encoded(header.byteCount) { span in _ = header.encode(into: &span, seed: 42) }
    #expect(FrameHeader(bytes.span.bytes, seed: 42) == header)
    #expect(FrameHeader(bytes.span.bytes, seed: 43) == nil)
    #expect(bytes.prefix(8) == [0x53, 0x50, 0x57, 0x46, 1, 0xFB, 0, 2])
    forEachFlip(bytes) { flipped, bit in
      #expect(FrameHeader(flipped.span.bytes, seed: 42) == nil, "bit \(bit)")
    }
    for count in 0..<bytes.count {
      #expect(FrameHeader(Array(bytes.prefix(count)).span.bytes, seed: 42) == nil)
    }
  }

  @Test("a record item comes back as it was, and not at all with a bit flipped")
  func records() {
    let record = Record(
      kind: .taint, layer: layer, sequence: 77, range: SectorRange(start: 5, end: 9), body: Array("why".utf8))
    let size = RecordItem.byteCount(record)
    let bytes = encoded(size) { span in _ = RecordItem.encode(record, into: &span, seed: 1) }
    let back = bytes.withUnsafeBytes { RecordItem.decode(RawSpan(_unsafeBytes: $0), seed: 1)?.record }
    #expect(back == record)
    forEachFlip(bytes) { flipped, bit in
      let back = flipped.withUnsafeBytes { RecordItem.decode(RawSpan(_unsafeBytes: $0), seed: 1)?.record }
      #expect(back == nil, "bit \(bit)")
    }
  }

  @Test("commit records and superblocks come back as they were, and not at all with a bit flipped")
  func superblocks() throws {
    let commit = CommitRecord(
      batch: 9, firstSequence: 10, lastSequence: 20, durableThrough: 8, groupByteCount: 4000,
      timeNanoseconds: 5,
      chain: 6)
    let commitBytes = encoded(CommitRecord.byteCount) { span in commit.encode(into: &span, seed: 3) }
    #expect(CommitRecord(commitBytes.span.bytes, seed: 3) == commit)
    forEachFlip(commitBytes) { flipped, bit in
      #expect(CommitRecord(flipped.span.bytes, seed: 3) == nil, "bit \(bit)")
    }

    let segment = SegmentSuperblock(
      segment: 4, salt: 5, journal: JournalUUID.random(), createdNanoseconds: 6)
    var segmentBytes = encoded(SegmentSuperblock.byteCount) { span in segment.encode(into: &span) }
    let segmentBack = try segmentBytes.withUnsafeBytes { try SegmentSuperblock(RawSpan(_unsafeBytes: $0)) }
    #expect(segmentBack == segment)
    segmentBytes[30] ^= 1
    #expect(throws: FormatFlaw.self) {
      _ = try segmentBytes.withUnsafeBytes { try SegmentSuperblock(RawSpan(_unsafeBytes: $0)) }
    }

    let journal = JournalSuperblock(
      journal: .random(), createdNanoseconds: 1, isClean: false, ring: .random(), boot: .random(),
      ringPath: "/dev/shm/x", adminAddress: "unix:/a b")
    #expect(try JournalSuperblock(journal.encoded) == journal)
    var damaged = journal.encoded
    damaged[100] ^= 4
    #expect(throws: FormatFlaw.self) { _ = try JournalSuperblock(damaged) }
    #expect(JournalUUID(journal.journal.description) == journal.journal)
  }

  @Test("a batch plan writes the last word on every sector, once", arguments: 1...6)
  func plans(seed: Int) {
    var random = SeededGenerator(seed: UInt64(seed))
    var records: [Record] = []
    var positions: [UInt64] = []
    var model: [LayerKey: [UInt64: UInt64?]] = [:]  // sector → where its byte lies, or nil for zeroes
    for sequence in 1...200 as ClosedRange<UInt64> {
      let key = LayerKey(
        disk: DiskID(number: .random(in: 1...2, using: &random)), generation: GenerationID(number: 1))
      let start = UInt64.random(in: 0..<3000, using: &random)
      let range = SectorRange(
        start: start, count: .random(in: 1...(seed % 2 == 0 ? 700 : 16), using: &random))
      let kind: RecordKind = [.data, .data, .data, .zero, .trim, .base].randomElement(using: &random)!
      records.append(Record(kind: kind, layer: key, sequence: sequence, range: range))
      positions.append(sequence << 32)
      for sector in range.start..<range.end {
        let place = kind == .data ? sequence << 32 + (sector - start) * 512 : nil
        model[key, default: [:]].updateValue(place, forKey: sector)
      }
    }
    let plan = BatchPlan(records, positions: positions)
    var found: [LayerKey: [UInt64: UInt64?]] = [:]
    for frame in plan.frames {
      #expect(frame.rawByteCount <= 128 << 10 && !frame.pieces.isEmpty)
      for piece in frame.pieces {
        for sector in piece.range.start..<piece.range.end {
          let place = piece.position + (sector - piece.range.start) * 512
          #expect(found[frame.layer, default: [:]].updateValue(place, forKey: sector) == nil, "written twice")
        }
      }
    }
    for record in plan.records {
      for sector in record.range.start..<record.range.end {
        #expect(found[record.layer, default: [:]].updateValue(nil, forKey: sector) == nil, "written twice")
      }
    }
    #expect(found == model, "seed \(seed)")
  }
}
