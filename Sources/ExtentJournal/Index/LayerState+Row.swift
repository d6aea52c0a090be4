internal import Bytes

extension LayerState {
  private struct Flags: OptionSet {
    var rawValue: UInt8
    static let complete = Flags(rawValue: 1)
    static let tainted = Flags(rawValue: 2)
    static let bitmapWhole = Flags(rawValue: 4)
    static let preSealed = Flags(rawValue: 8)
    static let sealed = Flags(rawValue: 16)
    static let ended = Flags(rawValue: 32)
    static let jobSeen = Flags(rawValue: 64)
    static let jobLowered = Flags(rawValue: 128)
  }

  /// More of them.
  private struct MoreFlags: OptionSet {
    var rawValue: UInt8
    static let dropped = MoreFlags(rawValue: 1)
    static let merged = MoreFlags(rawValue: 2)
  }

  /// The value of a row of the `generations` database.
  var encoded: [UInt8] {
    var flags: Flags = []
    if isComplete { flags.insert(.complete) }
    if taint != nil { flags.insert(.tainted) }
    if bitmapIsWhole { flags.insert(.bitmapWhole) }
    if preSeal != nil { flags.insert(.preSealed) }
    if seal != nil { flags.insert(.sealed) }
    if end != nil { flags.insert(.ended) }
    if seenJob != nil { flags.insert(.jobSeen) }
    if loweredJob != nil { flags.insert(.jobLowered) }
    var more: MoreFlags = []
    if isDropped { more.insert(.dropped) }
    if hasMerged { more.insert(.merged) }
    var bytes: [UInt8] = [kind.rawValue, flags.rawValue, more.rawValue, 0]
    bytes.appendBigEndian(base)
    let texts = [
      Array(name.utf8), Array(tag.utf8), preSeal ?? [], seal ?? [], Array((end ?? "").utf8),
      Array((seenJob ?? "").utf8), loweredJob?.encoded ?? [],
    ]
    for text in texts {
      bytes.appendBigEndian(UInt16(text.count))
      bytes += text
    }
    return bytes + (taint ?? "").utf8
  }

  /// Nil when `bytes` is no such value.
  init?(_ key: LayerKey, _ bytes: [UInt8]) {
    guard bytes.count >= 8, let kind = GenerationKind(rawValue: bytes[0]),
      let base = bytes.bigEndian(at: 4, as: UInt32.self)
    else { return nil }
    let flags = Flags(rawValue: bytes[1])
    var texts: [[UInt8]] = []
    var at = 8
    for _ in 0..<7 {
      guard let count = bytes.bigEndian(at: at, as: UInt16.self), bytes.count >= at + 2 + Int(count) else {
        return nil
      }
      texts.append(Array(bytes[at + 2..<at + 2 + Int(count)]))
      at += 2 + Int(count)
    }
    self.init(
      key: key, kind: kind, base: base, name: String(decoding: texts[0], as: UTF8.self),
      tag: String(decoding: texts[1], as: UTF8.self))
    let more = MoreFlags(rawValue: bytes[2])
    isDropped = more.contains(.dropped)
    hasMerged = more.contains(.merged)
    isComplete = flags.contains(.complete)
    bitmapIsWhole = flags.contains(.bitmapWhole)
    preSeal = flags.contains(.preSealed) ? texts[2] : nil
    seal = flags.contains(.sealed) ? texts[3] : nil
    end = flags.contains(.ended) ? String(decoding: texts[4], as: UTF8.self) : nil
    seenJob = flags.contains(.jobSeen) ? String(decoding: texts[5], as: UTF8.self) : nil
    loweredJob = flags.contains(.jobLowered) ? JobSpeed(texts[6]) : nil
    taint = flags.contains(.tainted) ? String(decoding: bytes[at...], as: UTF8.self) : nil
  }
}
