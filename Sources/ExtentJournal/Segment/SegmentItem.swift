internal import Bytes

/// An item of a group as its header says it; what a frame stores follows its header.
enum SegmentItem {
  case frame(FrameHeader)
  case record(Record)
  case commit(CommitRecord)

  /// The item whose header is at the start of `bytes`, and the checksum in that header, which goes into the chain.
  /// Nil when there is none, or not whole. `seed` is the segment's salt plus the item's offset.
  static func parse(_ bytes: RawSpan, seed: UInt64) -> (item: SegmentItem, checksum: UInt64)? {
    guard bytes.byteCount >= 4 else { return nil }
    switch bytes.bigEndian(at: 0, as: UInt32.self) {
    case FrameHeader.magic:
      return FrameHeader(bytes, seed: seed).map { (.frame($0), bytes.bigEndian(at: 32)) }
    case RecordItem.magic:
      return RecordItem.decode(bytes, seed: seed).map { (.record($0.record), $0.checksum) }
    case CommitRecord.magic:
      return CommitRecord(bytes, seed: seed).map { (.commit($0), bytes.bigEndian(at: 72)) }
    default:
      return nil
    }
  }

  /// Most bytes that a header may have: a record with the longest body.
  static let headerByteCountMax = RecordItem.fixedByteCount + 65535

  /// Bytes of the header, which is what a directory repeats. A record is all header.
  var headerByteCount: Int {
    switch self {
    case .frame(let header): header.byteCount
    case .record(let record): RecordItem.byteCount(record)
    case .commit: CommitRecord.byteCount
    }
  }

  /// What the item takes in its group, with stored bytes and padding.
  var groupByteCount: Int {
    switch self {
    case .frame(let header): header.itemByteCount.roundedUp(to: 16)
    default: headerByteCount.roundedUp(to: 16)
    }
  }
}

/// What a group holds, gathered item by item.
struct GroupContents {
  let segment: UInt64
  private(set) var extents: [(LayerKey, SectorRange, Placement)] = []
  private(set) var records: [Record] = []
  private(set) var lastSequence: UInt64 = 0
  private(set) var firstSequence = UInt64.max
  private var chain: BatchChain

  /// An empty group of `segment`, behind the batch whose chain is `previousChain`.
  init(segment: UInt64, previousChain: UInt64) {
    self.segment = segment
    chain = BatchChain(previous: previousChain)
  }

  var chainValue: UInt64 { chain.value }

  /// Adds a frame or a record that lies at `offset` of the segment; a commit record adds nothing.
  mutating func add(_ item: SegmentItem, checksum: UInt64, at offset: UInt64) {
    switch item {
    case .frame(let header):
      chain.add(checksum)
      let address = FrameAddress(
        segment: segment, granule: UInt32(offset / FrameAddress.granuleByteCount),
        kibibytes: UInt16((header.itemByteCount + 1023) / 1024))
      var skip: UInt32 = 0
      for extent in header.extents {
        extents.append((header.layer, extent.range, .frame(address, skip: skip)))
        skip += UInt32(extent.range.count)
        note(extent.sequence)
      }
    case .record(let record):
      chain.add(checksum)
      note(record.sequence)
      if let placement = Placement(record.kind) {
        extents.append((record.layer, record.range, placement))
      } else {
        records.append(record)
      }
    case .commit:
      break
    }
  }

  private mutating func note(_ sequence: UInt64) {
    lastSequence = max(lastSequence, sequence)
    firstSequence = min(firstSequence, sequence)
  }

  /// The batch that `commit`, at `offset` of the segment, makes of it.
  func batch(endedBy commit: CommitRecord, at offset: UInt64) -> PublishedBatch {
    batch(
      upTo: AppliedPosition(
        segment: segment,
        offset: (offset + UInt64(CommitRecord.byteCount)).roundedUp(to: AlignedBuffer.alignment),
        batch: commit.batch, sequence: commit.lastSequence, chain: commit.chain))
  }

  /// The batch that it is when nothing says where it ends but `end`.
  func batch(upTo end: AppliedPosition) -> PublishedBatch {
    PublishedBatch(
      end: end, firstSequence: min(firstSequence, end.sequence), extents: extents,
      records: records.sorted { $0.sequence < $1.sequence })
  }
}
