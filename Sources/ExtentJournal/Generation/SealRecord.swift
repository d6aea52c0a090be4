internal import Bytes

// What a generation is vouched for by: the body of a pre-seal and of a seal, one JSON object (docs/format.md).
//
// The hash and the coverage depend on what the generation holds and not on how it is stored, so that they can be
// computed again from the segments at any time, however frames were moved, compressed anew or merged meanwhile.

/// How much of what a generation holds, and two hashes over it.
package struct SealSummary: Sendable, Equatable {
  /// Stored as bytes.
  package var dataBytes: UInt64 = 0
  /// Known to be zeroes.
  package var zeroBytes: UInt64 = 0
  /// Outside the bitmap: the base's.
  package var baseBytes: UInt64 = 0
  /// Released: nobody can read it any more.
  package var releasedBytes: UInt64 = 0
  /// Over everything that the generation itself holds.
  package var hash: UInt64 = 0
  /// Over which ranges are its own, which the base's and which released.
  package var coverage: UInt64 = 0

  /// Of nothing.
  package init() {}

  /// Whether `other` speaks of the same content. What was zeroes in a payload may have become a zero record since, and
  /// the other way round.
  package func agrees(with other: SealSummary) -> Bool {
    hash == other.hash && coverage == other.coverage && baseBytes == other.baseBytes
      && releasedBytes == other.releasedBytes
      && dataBytes + zeroBytes == other.dataBytes + other.zeroBytes
  }

  /// Whether `other` may be the same after what fell to the base was taken in: zeroes do not say then whose they were, and
  /// neither do releases, so that the hash of the content is what is left to compare.
  package func agreesAfterMerge(with other: SealSummary) -> Bool {
    other.releasedBytes > releasedBytes || hash == other.hash
  }

  /// Whether `other` may be what releases have left of this: then nobody can compute the hashes again.
  package func mayHaveShrunk(to other: SealSummary) -> Bool {
    other.releasedBytes > releasedBytes && other.baseBytes <= baseBytes
      && other.dataBytes + other.zeroBytes <= dataBytes + zeroBytes
      && other.dataBytes + other.zeroBytes + other.baseBytes + other.releasedBytes
        == dataBytes + zeroBytes + baseBytes + releasedBytes
  }
}

/// The seal of a generation.
package struct SealRecord: Sendable, Equatable {
  /// Of the generation.
  package var name: String
  /// The job that brought the data, as its owner called it; may be empty.
  package var job: String
  /// The kind of generation that is sealed.
  package var kind: GenerationKind
  /// The name of the base, if there is one.
  package var base: String?
  /// Size of the disk in bytes.
  package var byteCount: UInt64
  /// What was there when it was read back.
  package var summary: SealSummary

  static let version: UInt64 = 1

  /// Unchecked: whoever makes one has computed the summary.
  package init(
    name: String, job: String, kind: GenerationKind, base: String?, byteCount: UInt64, summary: SealSummary
  ) {
    self.name = name
    self.job = job
    self.kind = kind
    self.base = base
    self.byteCount = byteCount
    self.summary = summary
  }

  /// The JSON text, always the same for the same seal.
  package var encoded: [UInt8] {
    var object = FlatJSON()
    object.add("version", .number(Self.version))
    object.add("name", .string(name))
    object.add("job", .string(job))
    object.add("kind", .string(kind.word))
    object.add("base", base.map { .string($0) } ?? .null)
    object.add("byteCount", .number(byteCount))
    object.add("dataBytes", .number(summary.dataBytes))
    object.add("zeroBytes", .number(summary.zeroBytes))
    object.add("baseBytes", .number(summary.baseBytes))
    if summary.releasedBytes > 0 { object.add("releasedBytes", .number(summary.releasedBytes)) }
    object.add("hash", .string(Self.hexadecimal(summary.hash)))
    object.add("coverage", .string(Self.hexadecimal(summary.coverage)))
    return object.text
  }

  /// Nil when `text` is no seal, or one of a later version.
  package init?(_ text: [UInt8]) {
    guard let object = FlatJSON(text), object.number("version") == Self.version,
      let name = object.string("name"), let job = object.string("job"),
      let kind = object.string("kind").flatMap({ GenerationKind(word: $0) }),
      let byteCount = object.number("byteCount"), let dataBytes = object.number("dataBytes"),
      let zeroBytes = object.number("zeroBytes"), let baseBytes = object.number("baseBytes"),
      let hash = object.string("hash").flatMap({ UInt64($0, radix: 16) }),
      let coverage = object.string("coverage").flatMap({ UInt64($0, radix: 16) })
    else { return nil }
    self.init(
      name: name, job: job, kind: kind, base: object.string("base"), byteCount: byteCount,
      summary: SealSummary())
    summary.dataBytes = dataBytes
    summary.zeroBytes = zeroBytes
    summary.baseBytes = baseBytes
    summary.releasedBytes = object.number("releasedBytes") ?? 0
    summary.hash = hash
    summary.coverage = coverage
  }

  private static func hexadecimal(_ value: UInt64) -> String {
    let digits = String(value, radix: 16)
    return String(repeating: "0", count: 16 - digits.count) + digits
  }
}
