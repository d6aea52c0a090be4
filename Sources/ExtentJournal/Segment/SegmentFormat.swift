internal import Bytes

// The bytes of a segment (docs/format.md). Pure: spans in, values out, and the other way round. A value read from
// disk is believed only when its checksum, seeded by the segment's salt and the place, is right.

/// Feature bits of this version: none of any kind is known yet.
enum FormatVersion {
  static let major: UInt16 = 1
  static let minor: UInt16 = 0

  /// Whether this version may use a file of that version with those feature bits.
  ///
  /// A file that a newer version allows to be read, but not written, is refused like one that it does not: what opens
  /// a journal here may have to recover it.
  static func isKnown(major: UInt16, incompatible: UInt32, readOnlyCompatible: UInt32) -> Bool {
    major == Self.major && incompatible == 0 && readOnlyCompatible == 0
  }
}

/// What is wrong with bytes that were read, as the end of a sentence about them.
package struct FormatFlaw: Error {
  var sentence: String
  /// Whether a crash can explain it: the bytes were never written as a whole.
  var isTorn: Bool

  init(_ sentence: String, isTorn: Bool = false) {
    self.sentence = sentence
    self.isTorn = isTorn
  }
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

extension Int {
  /// Rounded up to a multiple of `unit`, a power of two.
  package func roundedUp(to unit: Int) -> Int { (self + unit - 1) & ~(unit - 1) }
}
