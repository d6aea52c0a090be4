internal import Bytes

/// What is wanted of a disk, as `--keep-only NAME=RANGES` says.
package struct InterestSpecification: Hashable, Sendable {
  /// The disk.
  package var disk: String
  /// What of it.
  package var interest: Interest

  /// A way to say what of a disk is wanted.
  package enum Interest: Hashable, Sendable {
    /// Bytes of the disk, ascending and apart.
    case ranges([Range<UInt64>])
    /// Partitions by their numbers, from 1, as the disk's own table has them once it has arrived.
    case partitions([Int])
  }

  /// Parses the value of `--keep-only`: `vda=0-1G,5G-6G` (a range ends before its second number) or `vda=part:1,2`.
  package init(parsing text: String) throws(ServiceError) {
    guard let equals = text.firstIndex(of: "=") else { throw Self.malformed(text) }
    disk = try DiskSpecification.checkedName(String(text[..<equals]), context: "--keep-only \(text)")
    let value = text[text.index(after: equals)...]
    interest =
      value.hasPrefix("part:")
      ? try Self.partitions(value.dropFirst("part:".count), text) : try Self.ranges(value, text)
  }

  private static func partitions(_ value: Substring, _ text: String) throws(ServiceError) -> Interest {
    var numbers: Set<Int> = []
    for word in value.split(separator: ",", omittingEmptySubsequences: false) {
      guard let number = Int(word), (1...65_535).contains(number), word.allSatisfy(\.isNumber) else {
        throw malformed(text)
      }
      numbers.insert(number)
    }
    return .partitions(numbers.sorted())
  }

  private static func ranges(_ value: Substring, _ text: String) throws(ServiceError) -> Interest {
    var ranges: [Range<UInt64>] = []
    for word in value.split(separator: ",", omittingEmptySubsequences: false) {
      let ends = word.split(separator: "-", omittingEmptySubsequences: false).map { ByteCount.parse($0) }
      guard ends.count == 2, let start = ends[0], let end = ends[1], start < end else {
        throw malformed(text)
      }
      ranges.append(start..<end)
    }
    var joined: [Range<UInt64>] = []
    for range in ranges.sorted(by: { $0.lowerBound < $1.lowerBound }) {
      if let last = joined.last, last.upperBound >= range.lowerBound {
        joined[joined.count - 1] = last.lowerBound..<max(last.upperBound, range.upperBound)
      } else {
        joined.append(range)
      }
    }
    return .ranges(joined)
  }

  private static func malformed(_ text: String) -> ServiceError {
    .usage("--keep-only \(text): say NAME=START-END,... in bytes such as 0-1G,5G-6G, or NAME=part:NUMBER,...")
  }
}
