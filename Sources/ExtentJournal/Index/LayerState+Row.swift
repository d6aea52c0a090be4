internal import Bytes

extension LayerState {
  /// The value of a row of the `generations` database.
  var encoded: [UInt8] {
    var flags: UInt8 = (isComplete ? 1 : 0) | (taint != nil ? 2 : 0)
    flags |= (seenJob != nil ? 4 : 0) | (loweredJob != nil ? 8 : 0)
    var bytes: [UInt8] = [kind.rawValue, flags, 0, 0]
    bytes.appendBigEndian(base)
    bytes.appendText(name)
    if let seenJob { bytes.appendText(seenJob) }
    if let loweredJob {
      bytes.appendBigEndian(loweredJob.bytesPerSecond)
      bytes.appendBigEndian(loweredJob.loweredTo)
      bytes.appendText(loweredJob.job)
    }
    return bytes + (taint ?? "").utf8
  }

  /// Nil when `bytes` is no such value.
  init?(_ key: LayerKey, _ bytes: [UInt8]) {
    guard bytes.count >= 10, let kind = GenerationKind(rawValue: bytes[0]),
      let base = bytes.bigEndian(at: 4, as: UInt32.self)
    else { return nil }
    let flags = bytes[1]
    var position = 8
    guard let name = bytes.text(at: &position) else { return nil }
    self.init(key: key, kind: kind, base: base, name: name, isComplete: flags & 1 != 0)
    if flags & 4 != 0 {
      guard let job = bytes.text(at: &position) else { return nil }
      seenJob = job
    }
    if flags & 8 != 0 {
      guard let speed = bytes.bigEndian(at: position, as: UInt64.self),
        let lowered = bytes.bigEndian(at: position + 8, as: UInt64.self)
      else { return nil }
      position += 16
      guard let job = bytes.text(at: &position) else { return nil }
      loweredJob = JobSpeed(job: job, bytesPerSecond: speed, loweredTo: lowered)
    }
    if flags & 2 != 0 { taint = String(decoding: bytes[position...], as: UTF8.self) }
  }
}

extension [UInt8] {
  /// Appends `text` behind its length, 16 bits.
  fileprivate mutating func appendText(_ text: String) {
    appendBigEndian(UInt16(text.utf8.count))
    append(contentsOf: text.utf8)
  }

  /// The text that `appendText` left at `position`, which moves behind it; nil when it does not fit.
  fileprivate func text(at position: inout Int) -> String? {
    guard let count = bigEndian(at: position, as: UInt16.self), position + 2 + Int(count) <= self.count else {
      return nil
    }
    defer { position += 2 + Int(count) }
    return String(decoding: self[position + 2..<position + 2 + Int(count)], as: UTF8.self)
  }
}
