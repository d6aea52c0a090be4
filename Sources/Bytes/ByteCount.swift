/// Sizes as people write and read them on the command line.
package enum ByteCount {
  /// Parses `512`, `64K`, `10G`, `2T`: a decimal number of bytes with an optional power-of-1024 suffix
  /// (K, M, G, T, P; either case). Nil for anything else, a negative number or one beyond 2^63 − 1.
  package static func parse(_ text: some StringProtocol) -> UInt64? {
    let suffixes: [Character: UInt64] = ["K": 10, "M": 20, "G": 30, "T": 40, "P": 50]
    var digits = Substring(text)
    var shift: UInt64 = 0
    if let last = digits.last, let power = suffixes[Character(last.uppercased())] {
      shift = power
      digits = digits.dropLast()
    }
    guard !digits.isEmpty, digits.allSatisfy({ $0.isASCII && $0.isNumber }), let number = UInt64(digits)
    else { return nil }
    let (value, overflow) = number.multipliedReportingOverflow(by: 1 << shift)
    return overflow || value > UInt64(Int64.max) ? nil : value
  }

  /// Bytes with a binary unit and at most one decimal: `512 B`, `1.5 MiB`.
  package static func text(_ bytes: UInt64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB"]
    guard bytes >= 1024 else { return "\(bytes) B" }
    var value = Double(bytes) / 1024
    var unit = 0
    while value >= 1023.95 && unit < units.count - 1 {
      value /= 1024
      unit += 1
    }
    let tenths = UInt64((value * 10).rounded())
    return tenths % 10 == 0 ? "\(tenths / 10) \(units[unit])" : "\(tenths / 10).\(tenths % 10) \(units[unit])"
  }
}
