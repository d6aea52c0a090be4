internal import Bytes

/// The header and body of a record item.
package enum RecordItem {
  static let magic: UInt32 = 0x5350_5752  // SPWR
  static let fixedByteCount = 48

  /// Bytes of the item without padding.
  package static func byteCount(_ record: Record) -> Int { fixedByteCount + record.body.count }

  /// Writes `record` to the start of `target` and returns its checksum, for the chain.
  package static func encode(_ record: Record, into target: inout MutableRawSpan, seed: UInt64) -> UInt64 {
    target.storeBigEndian(magic, at: 0)
    target.storeBigEndian(record.kind.rawValue, at: 4)
    target.storeBigEndian(UInt8(0), at: 5)
    target.storeBigEndian(UInt16(record.body.count), at: 6)
    target.storeBigEndian(record.layer.disk.number, at: 8)
    target.storeBigEndian(record.layer.generation.number, at: 12)
    target.storeBigEndian(record.sequence, at: 16)
    target.storeBigEndian(record.range.start, at: 24)
    target.storeBigEndian(record.range.count, at: 32)
    for (index, byte) in record.body.enumerated() {
      target.storeBytes(of: byte, toByteOffset: fixedByteCount + index, as: UInt8.self)
    }
    let end = fixedByteCount + record.body.count
    let checksum = itemChecksum(target.bytes, fixed: 40, from: fixedByteCount, to: end, seed: seed)
    target.storeBigEndian(checksum, at: 40)
    return checksum
  }

  /// The record at the start of `bytes` and its checksum, or nil.
  package static func decode(_ bytes: RawSpan, seed: UInt64) -> (record: Record, checksum: UInt64)? {
    guard bytes.byteCount >= fixedByteCount, bytes.bigEndian(at: 0, as: UInt32.self) == magic,
      let kind = RecordKind(rawValue: bytes.bigEndian(at: 4)), kind != .data
    else { return nil }
    let end = fixedByteCount + Int(bytes.bigEndian(at: 6, as: UInt16.self))
    let checksum: UInt64 = bytes.bigEndian(at: 40)
    guard bytes.byteCount >= end,
      itemChecksum(bytes, fixed: 40, from: fixedByteCount, to: end, seed: seed) == checksum
    else { return nil }
    let start: UInt64 = bytes.bigEndian(at: 24)
    let (last, overflow) = start.addingReportingOverflow(bytes.bigEndian(at: 32))
    guard !overflow else { return nil }
    let record = Record(
      kind: kind,
      layer: LayerKey(
        disk: DiskID(number: bytes.bigEndian(at: 8)),
        generation: GenerationID(number: bytes.bigEndian(at: 12))),
      sequence: bytes.bigEndian(at: 16), range: SectorRange(start: start, end: last),
      body: (fixedByteCount..<end).map { bytes.bigEndian(at: $0) })
    return (record, checksum)
  }
}
