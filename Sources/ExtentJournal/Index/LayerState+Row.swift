internal import Bytes

extension LayerState {
  /// The value of a row of the `generations` database.
  var encoded: [UInt8] {
    var bytes: [UInt8] = [kind.rawValue, (isComplete ? 1 : 0) | (taint != nil ? 2 : 0), 0, 0]
    bytes.appendBigEndian(base)
    bytes.appendBigEndian(UInt16(name.utf8.count))
    return bytes + name.utf8 + (taint ?? "").utf8
  }

  /// Nil when `bytes` is no such value.
  init?(_ key: LayerKey, _ bytes: [UInt8]) {
    guard bytes.count >= 10, let kind = GenerationKind(rawValue: bytes[0]),
      let base = bytes.bigEndian(at: 4, as: UInt32.self),
      let nameCount = bytes.bigEndian(at: 8, as: UInt16.self), bytes.count >= 10 + Int(nameCount)
    else { return nil }
    let name = String(decoding: bytes[10..<10 + Int(nameCount)], as: UTF8.self)
    let taint = bytes[1] & 2 != 0 ? String(decoding: bytes[(10 + Int(nameCount))...], as: UTF8.self) : nil
    self.init(key: key, kind: kind, base: base, name: name, isComplete: bytes[1] & 1 != 0, taint: taint)
  }
}
