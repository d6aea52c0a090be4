internal import Bytes
internal import Threads

/// Something in the segments that was durable and cannot be read any more.
package struct JournalDamage: Codable, Sendable, Equatable {
  /// The disk whose bytes they are; nil when nobody knows.
  package var disk: String?
  /// Where on that disk, in bytes.
  package var offset: UInt64?
  /// How many bytes of it.
  package var length: UInt64?
  /// The record that brought them, or the first of those that may have.
  package var sequence: UInt64
  /// All of it in one sentence without a full stop, the place in the segments included.
  package var message: String
}

extension Journal {
  /// `found` in the words of its users: disks by name, bytes instead of sectors.
  static func name(_ found: [SegmentDamage], _ ledger: Ledger) -> [JournalDamage] {
    let disks = ledger.lock.withLock { ledger.disks }
    return found.flatMap { damage -> [JournalDamage] in
      guard let (layer, extents) = damage.extents else {
        return [
          JournalDamage(
            disk: nil, offset: nil, length: nil, sequence: damage.sequences.lowerBound,
            message: "\(damage.sentence) beyond recognition")
        ]
      }
      let name = disks[layer.disk]?.name ?? "number \(layer.disk.number)"
      return extents.map { extent in
        let bytes = extent.range.bytes
        return JournalDamage(
          disk: name, offset: bytes.start, length: bytes.count, sequence: extent.sequence,
          message:
            "bytes \(bytes.start) to \(bytes.end) of disk \(name) (record \(extent.sequence)) are damaged, at offset \(damage.offset ?? 0) of segments/\(SegmentStore.name(damage.segment))"
        )
      }
    }
  }
}
