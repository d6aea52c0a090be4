internal import Bytes

/// The commit record that ends a group.
package struct CommitRecord: Equatable, Sendable {
  var batch: UInt64
  var firstSequence: UInt64
  var lastSequence: UInt64
  /// A batch known to be durable when this one was written.
  package var durableThrough: UInt64
  /// From the start of the group to the end of this record.
  package var groupByteCount: UInt64
  var timeNanoseconds: UInt64
  var chain: UInt64

  static let magic: UInt32 = 0x5350_5743  // SPWC
  /// Its size, which is also its share of the group: 80 is a multiple of 16.
  package static let byteCount = 80

  /// Writes all 80 bytes, as part 1 of 1; `seed` is the segment's salt plus the record's offset.
  package func encode(into target: inout MutableRawSpan, seed: UInt64) {
    target.storeBigEndian(Self.magic, at: 0)
    target.storeBigEndian(UInt16(1), at: 4)
    target.storeBigEndian(UInt16(1), at: 6)
    target.storeBigEndian(batch, at: 8)
    target.storeBigEndian(batch - min(batch, 1), at: 16)
    target.storeBigEndian(firstSequence, at: 24)
    target.storeBigEndian(lastSequence, at: 32)
    target.storeBigEndian(durableThrough, at: 40)
    target.storeBigEndian(groupByteCount, at: 48)
    target.storeBigEndian(timeNanoseconds, at: 56)
    target.storeBigEndian(chain, at: 64)
    target.storeBigEndian(Checksum.xxh3(target.bytes.extracting(0..<72), seed: seed), at: 72)
  }

  /// The record of a group that holds its batch alone; the batch before has the number below.
  package init(
    batch: UInt64, firstSequence: UInt64, lastSequence: UInt64, durableThrough: UInt64,
    groupByteCount: UInt64,
    timeNanoseconds: UInt64, chain: UInt64
  ) {
    self.batch = batch
    self.firstSequence = firstSequence
    self.lastSequence = lastSequence
    self.durableThrough = durableThrough
    self.groupByteCount = groupByteCount
    self.timeNanoseconds = timeNanoseconds
    self.chain = chain
  }

  /// What the bytes at the start of `bytes` say if they are a commit record: its batch and the batch that it knows to be
  /// durable. Unverified: for where there is no salt to verify with.
  static func claim(_ bytes: RawSpan) -> (batch: UInt64, durableThrough: UInt64)? {
    guard bytes.byteCount >= byteCount, bytes.bigEndian(at: 0, as: UInt32.self) == magic else { return nil }
    return (bytes.bigEndian(at: 8), bytes.bigEndian(at: 40))
  }

  /// The commit record at the start of `bytes`, or nil.
  package init?(_ bytes: RawSpan, seed: UInt64) {
    guard bytes.byteCount >= Self.byteCount, bytes.bigEndian(at: 0, as: UInt32.self) == Self.magic,
      Checksum.xxh3(bytes.extracting(0..<72), seed: seed) == bytes.bigEndian(at: 72, as: UInt64.self)
    else { return nil }
    batch = bytes.bigEndian(at: 8)
    firstSequence = bytes.bigEndian(at: 24)
    lastSequence = bytes.bigEndian(at: 32)
    durableThrough = bytes.bigEndian(at: 40)
    groupByteCount = bytes.bigEndian(at: 48)
    timeNanoseconds = bytes.bigEndian(at: 56)
    chain = bytes.bigEndian(at: 64)
  }
}
