internal import BlockFile
internal import Bytes

/// 128 random bits that tell one journal, or one ring, from every other.
package struct JournalUUID: Hashable, Sendable, CustomStringConvertible {
  var high: UInt64
  var low: UInt64

  static let zero = JournalUUID(high: 0, low: 0)

  /// A random (version 4) UUID.
  package static func random() -> JournalUUID {
    JournalUUID(
      high: UInt64.random(in: 0 ... .max) & ~0xF000 | 0x4000,
      low: UInt64.random(in: 0 ... .max) & ~(3 << 62) | 2 << 62)
  }

  init(high: UInt64, low: UInt64) {
    self.high = high
    self.low = low
  }

  /// Parses the 36-character form; nil for anything else.
  package init?(_ text: String) {
    let digits = text.filter { $0 != "-" }
    guard digits.utf8.count == 32, let high = UInt64(digits.prefix(16), radix: 16),
      let low = UInt64(digits.suffix(16), radix: 16)
    else { return nil }
    self.init(high: high, low: low)
  }

  package var description: String {
    func hex(_ value: UInt64, _ shift: UInt64, _ digits: Int) -> String {
      let text = String(
        value >> shift & (digits == 12 ? 0xFFFF_FFFF_FFFF : digits == 8 ? 0xFFFF_FFFF : 0xFFFF), radix: 16)
      return String(repeating: "0", count: digits - text.count) + text
    }
    return [hex(high, 32, 8), hex(high, 16, 4), hex(high, 0, 4), hex(low, 48, 4), hex(low, 0, 12)]
      .joined(separator: "-")
  }
}

/// `DIR/journal`: who the journal is, whether it was closed cleanly, and where its spool ring lies.
package struct JournalSuperblock: Equatable, Sendable {
  /// The identity that every segment repeats.
  package var journal: JournalUUID
  var createdNanoseconds: UInt64
  var isClean: Bool
  var ring: JournalUUID
  var boot: JournalUUID
  var ringPath: String
  var adminAddress: String
  /// What this version may do with the journal; what it writes itself it may also write again.
  package private(set) var use = FormatUse.all

  static let byteCount = 4096
  private static let magic: UInt64 = 0x5350_494C_4C57_4159  // SPILLWAY
  /// Most bytes of each of the two texts.
  package static let textBytesMax = 1900

  /// All 4096 bytes, checksum included; traps when a text is longer than `textBytesMax`.
  package var encoded: [UInt8] {
    var bytes: [UInt8] = []
    bytes.appendBigEndian(Self.magic)
    bytes.appendBigEndian(FormatVersion.major)
    bytes.appendBigEndian(FormatVersion.minor)
    for features in [FormatVersion.incompatible, 0, 0] { bytes.appendBigEndian(features) }
    bytes.appendBigEndian(journal.high)
    bytes.appendBigEndian(journal.low)
    bytes.appendBigEndian(createdNanoseconds)
    bytes.appendBigEndian(UInt64(isClean ? 1 : 2) << 56)
    for id in [ring, boot] {
      bytes.appendBigEndian(id.high)
      bytes.appendBigEndian(id.low)
    }
    for text in [ringPath, adminAddress] {
      precondition(text.utf8.count <= Self.textBytesMax, "text too long for the superblock")
      bytes.appendBigEndian(UInt16(text.utf8.count))
      bytes += Array(text.utf8)
    }
    bytes += [UInt8](repeating: 0, count: Self.byteCount - 8 - bytes.count)
    // SAFETY: bytes of UInt8 have no padding.
    bytes.appendBigEndian(unsafe Checksum.xxh3(bytes.span.bytes, seed: 0))
    return bytes
  }

  /// Texts longer than `textBytesMax` trap only when they are encoded.
  package init(
    journal: JournalUUID, createdNanoseconds: UInt64, isClean: Bool, ring: JournalUUID, boot: JournalUUID,
    ringPath: String, adminAddress: String
  ) {
    self.journal = journal
    self.createdNanoseconds = createdNanoseconds
    self.isClean = isClean
    self.ring = ring
    self.boot = boot
    self.ringPath = ringPath
    self.adminAddress = adminAddress
  }

  /// Throws a sentence that says what is wrong.
  package init(_ bytes: [UInt8]) throws(FormatFlaw) {
    guard bytes.count == Self.byteCount, bytes.bigEndian(at: 0, as: UInt64.self) == Self.magic else {
      throw FormatFlaw("is not a journal superblock")
    }
    // SAFETY: bytes of UInt8 have no padding.
    let span = unsafe bytes.span.bytes
    guard Checksum.xxh3(span.extracting(0..<4088), seed: 0) == span.bigEndian(at: 4088, as: UInt64.self)
    else { throw FormatFlaw("is damaged") }
    use = FormatVersion.use(
      major: span.bigEndian(at: 8), incompatible: span.bigEndian(at: 12),
      readOnlyCompatible: span.bigEndian(at: 16))
    guard use != .none else { throw .newer }
    journal = JournalUUID(high: span.bigEndian(at: 24), low: span.bigEndian(at: 32))
    createdNanoseconds = span.bigEndian(at: 40)
    isClean = span.bigEndian(at: 48, as: UInt8.self) == 1
    ring = JournalUUID(high: span.bigEndian(at: 56), low: span.bigEndian(at: 64))
    boot = JournalUUID(high: span.bigEndian(at: 72), low: span.bigEndian(at: 80))
    var at = 88
    var texts: [String] = []
    for _ in 0..<2 {
      let count = Int(span.bigEndian(at: at, as: UInt16.self))
      guard at + 2 + count <= 4088 - 2 else { throw FormatFlaw("is damaged") }
      texts.append(String(decoding: bytes[at + 2..<at + 2 + count], as: UTF8.self))
      at += 2 + count
    }
    ringPath = texts[0]
    adminAddress = texts[1]
  }
}
