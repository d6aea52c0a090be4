package import Bytes

/// The number of a disk within a journal, from 1.
package struct DiskID: Hashable, Sendable, Comparable {
  /// As it stands in the spool, in segments and in the index.
  package var number: UInt32

  /// Unchecked: no such disk need exist.
  package init(number: UInt32) { self.number = number }

  package static func < (a: Self, b: Self) -> Bool { a.number < b.number }
}

/// The number of a generation of one disk, from 1.
package struct GenerationID: Hashable, Sendable, Comparable {
  /// As it stands on disk; 0 in records of a disk as a whole.
  package var number: UInt32

  /// Unchecked: no such generation need exist.
  package init(number: UInt32) { self.number = number }

  package static func < (a: Self, b: Self) -> Bool { a.number < b.number }
}

/// One generation of one disk: what extents belong to.
package struct LayerKey: Hashable, Sendable, Comparable {
  /// The major part of the order.
  package var disk: DiskID
  /// Counts for this disk alone.
  package var generation: GenerationID

  /// Says nothing about whether the journal has such a generation.
  package init(disk: DiskID, generation: GenerationID) {
    self.disk = disk
    self.generation = generation
  }

  package static func < (a: Self, b: Self) -> Bool {
    a.disk == b.disk ? a.generation < b.generation : a.disk < b.disk
  }
}

extension LayerKey {
  /// What speaks of the journal as a whole: no disk has this number.
  static let journal = LayerKey(disk: DiskID(number: 0), generation: GenerationID(number: 0))
}

/// What a record says. The numbers stand in the spool and in segments (docs/format.md).
package enum RecordKind: UInt8, Sendable {
  case data = 1
  case zero = 2
  case trim = 3
  case base = 4
  case release = 5
  case disk = 16
  case begin = 17
  case complete = 18
  case taint = 19
  case bitmapWhole = 20
  case preSeal = 21
  case seal = 22
  case end = 23
  case drop = 24
  case merge = 25
  case source = 28
  case speed = 29
  /// In moved segments only: which segments upkeep removed.
  case removed = 30
}

/// A record without payload, as it stands in a group and as recovery hands it on.
package struct Record: Sendable, Equatable {
  /// Never `data` in a segment, where data stands in frames; a batch to be planned has both.
  package var kind: RecordKind
  /// With generation 0 where the kind speaks of a disk as a whole.
  package var layer: LayerKey
  /// Its place in the order of commits, from 1, for the whole journal.
  package var sequence: UInt64
  /// What it speaks of; empty where the kind has no extent.
  package var range: SectorRange
  /// At most 65,535 bytes, in the encoding of the kind (docs/format.md).
  package var body: [UInt8]

  /// Unchecked: whoever encodes it sees to its limits.
  package init(kind: RecordKind, layer: LayerKey, sequence: UInt64, range: SectorRange, body: [UInt8] = []) {
    self.kind = kind
    self.layer = layer
    self.sequence = sequence
    self.range = range
    self.body = body
  }
}

/// The body of a disk record.
struct DiskBody: Sendable, Equatable {
  var mode: DiskMode
  var byteCount: UInt64
  var name: String

  var encoded: [UInt8] {
    var bytes: [UInt8] = [mode == .device ? 1 : 2, 0, 0, 0, 0, 0, 0, 0]
    bytes.appendBigEndian(byteCount)
    return bytes + name.utf8
  }

  init(mode: DiskMode, byteCount: UInt64, name: String) {
    self.mode = mode
    self.byteCount = byteCount
    self.name = name
  }

  /// Nil when `bytes` is no such body.
  init?(_ bytes: [UInt8]) {
    guard bytes.count > 16, let size = bytes.bigEndian(at: 8, as: UInt64.self),
      bytes[0] == 1 || bytes[0] == 2, size > 0, size % Sector.byteCount == 0
    else { return nil }
    mode = bytes[0] == 1 ? .device : .snapshot
    byteCount = size
    name = String(decoding: bytes[16...], as: UTF8.self)
  }
}
