internal import Bytes
package import ExtentJournal

/// A disk as `--disk NAME=SIZE[,mode=device|snapshot]` names it.
package struct DiskSpecification: Hashable, Sendable {
  /// The name, of `[A-Za-z0-9._-]+`.
  package var name: String
  /// Size in bytes: a multiple of 512 above 0.
  package var byteCount: UInt64
  /// How the disk takes writes; nil leaves it to the journal (a new disk: device).
  package var mode: DiskMode?

  /// The longest name, in bytes: with `@` and a generation's name it still fits an NBD export name.
  package static let nameByteCountMax = 255

  /// Parses the value of `--disk`.
  package init(parsing text: String) throws(ServiceError) {
    let parts = text.split(separator: ",", omittingEmptySubsequences: false)
    guard let first = parts.first, let equals = first.firstIndex(of: "=") else {
      throw .usage("--disk \(text): a disk is NAME=SIZE[,mode=device|snapshot]")
    }
    name = try Self.checkedName(String(first[..<equals]), context: "--disk \(text)")
    let sizeText = first[equals...].dropFirst()
    guard let byteCount = ByteCount.parse(sizeText) else {
      throw .usage("--disk \(text): a size is a number of bytes such as 512, 64K, 10G or 2T")
    }
    guard byteCount > 0, byteCount % Sector.byteCount == 0 else {
      throw .usage("--disk \(text): a size is a multiple of \(Sector.byteCount) bytes above 0")
    }
    self.byteCount = byteCount
    for part in parts.dropFirst() {
      let pair = part.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
      guard pair.count == 2, pair[0] == "mode" else {
        throw .usage("--disk \(text): after the size there can only be ,mode=device or ,mode=snapshot")
      }
      guard mode == nil else { throw .usage("--disk \(text): the mode is given twice") }
      guard let mode = DiskMode(rawValue: String(pair[1])) else {
        throw .usage("--disk \(text): a mode is device or snapshot")
      }
      self.mode = mode
    }
  }

  /// `name` if it can name a disk.
  package static func checkedName(_ name: String, context: String) throws(ServiceError) -> String {
    let isPlain = name.utf8.allSatisfy { byte in
      switch byte {
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
        UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "-"):
        true
      default: false
      }
    }
    guard !name.isEmpty, isPlain, name.utf8.count <= nameByteCountMax else {
      throw .usage(
        "\(context): the name of a disk is 1 to \(nameByteCountMax) letters, digits, dots, underscores "
          + "and hyphens")
    }
    return name
  }
}
