import TestKit
import WriteRecorder

/// One thing that LMDB did to its file, or a mark.
struct FileEvent {
  enum Kind: Int32 {
    case write = 1
    case synchronousWrite, sync, truncate, mark
  }
  var kind: Kind
  /// In bytes; of a truncation the new length, of a mark its number.
  var offset: Int
  var bytes: [UInt8]

  /// Ends the recording and returns what was recorded.
  static func stopRecording() -> [FileEvent] {
    (0..<write_recorder_stop()).map { index in
      let event = write_recorder_get(index)
      let bytes = event.count == 0 ? [] : Array(UnsafeBufferPointer(start: event.bytes, count: event.count))
      return FileEvent(kind: Kind(rawValue: event.kind)!, offset: Int(event.offset), bytes: bytes)
    }
  }
}

/// A file whose power can go: what it holds when nothing is lost, and what since the last sync may be.
struct LossyFile {
  private(set) var whole: [UInt8] = []
  private var durable: [UInt8] = []
  private var pending: [FileEvent] = []
  private var random: SeededGenerator

  init(seed: UInt64) { random = SeededGenerator(seed: seed) }

  mutating func apply(_ event: FileEvent) {
    switch event.kind {
    case .write:
      Self.write(event.bytes[...], event.offset, &whole)
      pending.append(event)
    case .synchronousWrite:
      Self.write(event.bytes[...], event.offset, &whole)
      Self.write(event.bytes[...], event.offset, &durable)
    case .truncate:
      whole =
        Array(whole.prefix(event.offset)) + [UInt8](repeating: 0, count: max(0, event.offset - whole.count))
      pending.append(event)
    case .sync:
      durable = whole
      pending = []
    case .mark: break
    }
  }

  /// Places between sectors where a write may end: the first, the last and two between, in bytes of the write.
  mutating func cuts(of event: FileEvent) -> [Int] {
    let first = 512 - event.offset % 512
    let places = Array(stride(from: first, to: event.bytes.count, by: 512))
    guard places.count > 4 else { return places }
    return [
      places[0], places.randomElement(using: &random)!, places.randomElement(using: &random)!, places.last!,
    ]
  }

  /// Everything up to `event`, and that until `cut`.
  func torn(_ event: FileEvent, after cut: Int) -> [UInt8] {
    var bytes = whole
    Self.write(event.bytes[..<cut], event.offset, &bytes)
    return bytes
  }

  /// How many choices of what is not synced are worth a look.
  var choiceCount: Int { pending.isEmpty ? 0 : pending.count < 3 ? 1 << pending.count : 6 }

  /// What a power loss leaves: of few writes each subset, of more a chance for each sector.
  mutating func leftOver(_ choice: Int) -> [UInt8] {
    var bytes = durable
    for (number, event) in pending.enumerated() {
      guard event.kind == .write else { continue }
      if pending.count < 3 {
        if choice >> number & 1 == 1 { Self.write(event.bytes[...], event.offset, &bytes) }
        continue
      }
      for start in stride(from: 0, to: event.bytes.count, by: 512) where Bool.random(using: &random) {
        let end = min(event.bytes.count, start + 512)
        Self.write(event.bytes[start..<end], event.offset + start, &bytes)
      }
    }
    return bytes
  }

  private static func write(_ bytes: ArraySlice<UInt8>, _ offset: Int, _ file: inout [UInt8]) {
    let end = offset + bytes.count
    if file.count < end { file.append(contentsOf: [UInt8](repeating: 0, count: end - file.count)) }
    file.replaceSubrange(offset..<end, with: bytes)
  }
}
