internal import Bytes

// The bytes of a segment (docs/format.md). Pure: spans in, values out, and the other way round. A value read from
// disk is believed only when its checksum, seeded by the segment's salt and the place, is right.

/// Which versions and feature bits this version knows. The bits are incompatible ones: generations, with records that a
/// version without them would take for the torn end of a segment, and moved segments, beside which others have holes.
enum FormatVersion {
  static let major: UInt16 = 1
  static let minor: UInt16 = 2
  /// The incompatible features of what is written.
  static let incompatible: UInt32 = generations | moved
  static let generations: UInt32 = 1
  static let moved: UInt32 = 2

  /// What may be done with a file of that version with those feature bits. (Bits of the third kind, compatible, are
  /// ignored.)
  static func use(major: UInt16, incompatible: UInt32, readOnlyCompatible: UInt32) -> FormatUse {
    guard major == Self.major, incompatible & ~Self.incompatible == 0 else { return .none }
    return readOnlyCompatible == 0 ? .all : .reading
  }
}

/// What this version may do with a file that another version wrote.
package enum FormatUse: Sendable {
  /// Read and write it.
  case all
  /// Only read it: it has features that a writer must know.
  case reading
  /// Nothing.
  case none
}

/// What is wrong with bytes that were read, as the end of a sentence about them.
package struct FormatFlaw: Error {
  var sentence: String
  var kind: Kind

  /// What may have made it.
  enum Kind {
    /// Something changed the bytes.
    case damaged
    /// A crash: they were never written as a whole.
    case torn
    /// The bytes are right, and of something else: another journal, or a newer version.
    case foreign
  }

  init(_ sentence: String, _ kind: Kind = .damaged) {
    self.sentence = sentence
    self.kind = kind
  }

  static let newer = FormatFlaw("was written by a newer version of spillway; use that one", .foreign)
}

/// The chain of a batch: what was before, and every header checksum of its group, in order.
struct BatchChain {
  private var bytes: [UInt8]

  init(previous: UInt64) {
    bytes = []
    bytes.appendBigEndian(previous)
  }

  mutating func add(_ checksum: UInt64) { bytes.appendBigEndian(checksum) }

  // SAFETY: bytes of UInt8 have no padding.
  var value: UInt64 { unsafe Checksum.xxh3(bytes.span.bytes, seed: 0) }
}

/// The checksum of an item's fixed part and of what follows its checksum field.
func itemChecksum(_ bytes: RawSpan, fixed: Int, from: Int, to: Int, seed: UInt64) -> UInt64 {
  let head = Checksum.xxh3(bytes.extracting(0..<fixed), seed: seed)
  return to > from ? Checksum.xxh3(bytes.extracting(from..<to), seed: head) : head
}

extension FixedWidthInteger {
  /// Rounded up to a multiple of `unit`, a power of two.
  package func roundedUp(to unit: Int) -> Self { (self + Self(unit) - 1) & ~(Self(unit) - 1) }
}
