internal import Bytes

/// How a generation relates to others (the numbers stand in the format).
package enum GenerationKind: UInt8, Sendable, CaseIterable {
  /// Complete in itself: one backup job's data.
  case full = 1
  /// What changed since its base; outside the bitmap it falls to the base, inside never.
  case incremental
  /// What a guest overwrote while a job without a sync mode lived; complete only together with the source.
  case cow
  /// A device's state since the previous checkpoint.
  case checkpoint

  /// The word for it in seals and in the status.
  package var word: String {
    switch self {
    case .full: "full"
    case .incremental: "incremental"
    case .cow: "cow"
    case .checkpoint: "checkpoint"
    }
  }

  /// The kind that `word` names, or nil when it names none.
  package init?(word: String) {
    guard let kind = Self.allCases.first(where: { $0.word == word }) else { return nil }
    self = kind
  }
}

/// What a generation that is to be opened is asked to be.
package struct GenerationRequest: Sendable {
  /// Of `[A-Za-z0-9._-]+`, unique within the disk, and not `live`.
  package var name: String
  /// Not `checkpoint`: those belong to device disks.
  package var kind: GenerationKind
  /// The name of the generation that an incremental one falls to; nil for all others.
  package var base: String?
  /// What its owner knows it by, such as the UUID of a session; several disks of one backup share it.
  package var tag: String

  /// Unchecked: `Journal.begin` checks.
  package init(name: String, kind: GenerationKind = .full, base: String? = nil, tag: String = "") {
    self.name = name
    self.kind = kind
    self.base = base
    self.tag = tag
  }
}

/// The body of a begin record.
struct BeginBody: Sendable, Equatable {
  var kind: GenerationKind
  /// The number of the base; 0: none.
  var base: UInt32
  var name: String
  var tag: String

  var encoded: [UInt8] {
    var bytes: [UInt8] = [kind.rawValue, 0]
    bytes.appendBigEndian(UInt16(tag.utf8.count))
    bytes.appendBigEndian(base)
    return bytes + name.utf8 + tag.utf8
  }

  init(kind: GenerationKind, base: UInt32, name: String, tag: String = "") {
    self.kind = kind
    self.base = base
    self.name = name
    self.tag = tag
  }

  /// Nil when `bytes` is no such body.
  init?(_ bytes: [UInt8]) {
    guard bytes.count >= 8, let kind = GenerationKind(rawValue: bytes[0]),
      let tagByteCount = bytes.bigEndian(at: 2, as: UInt16.self),
      let base = bytes.bigEndian(at: 4, as: UInt32.self), bytes.count >= 8 + Int(tagByteCount)
    else { return nil }
    self.kind = kind
    self.base = base
    let end = bytes.count - Int(tagByteCount)
    name = String(decoding: bytes[8..<end], as: UTF8.self)
    tag = String(decoding: bytes[end...], as: UTF8.self)
  }
}
