internal import Bytes

/// An image that is read back in order, a few MiB at a time.
struct ImageWindow<Image: ImageReader> {
  private let image: Image
  private let byteCount: UInt64
  private let buffer = AlignedBuffer(byteCount: 4 << 20)
  private var loaded = ByteRange(offset: 0, count: 0)

  /// Of an image of `byteCount` bytes.
  init(_ image: Image, byteCount: UInt64) {
    self.image = image
    self.byteCount = byteCount
  }

  /// Throws `.failed` unless the image has `bytes` at `offset`. `name` is for the message.
  mutating func expect(_ bytes: RawSpan, at offset: UInt64, of name: String) throws(JournalError) {
    var done = 0
    while done < bytes.byteCount {
      let (place, count) = try load(offset + UInt64(done), upTo: UInt64(bytes.byteCount - done))
      let memory = buffer
      let found = memory.bytes.extracting(place..<place + count)
      let wanted = bytes.extracting(done..<done + count)
      guard found.equals(wanted) else {
        let byte = (0..<count).first { found.byte(at: $0) != wanted.byte(at: $0) } ?? 0
        throw difference(offset + UInt64(done + byte), name)
      }
      done += count
    }
  }

  /// Throws `.failed` unless the image has zeroes in `range`. `name` is for the message.
  mutating func expectZeroes(_ range: ByteRange, of name: String) throws(JournalError) {
    var position = range.start
    while position < range.end {
      let (place, count) = try load(position, upTo: range.end - position)
      let memory = buffer
      let found = memory.bytes.extracting(place..<place + count)
      guard found.isAllZero else {
        let byte = (0..<count).first { found.byte(at: $0) != 0 } ?? 0
        throw difference(position + UInt64(byte), name)
      }
      position += UInt64(count)
    }
  }

  /// Where in the buffer the byte at `position` is, and how many of the wanted `count` are there.
  private mutating func load(
    _ position: UInt64, upTo count: UInt64
  ) throws(JournalError) -> (place: Int, count: Int) {
    if position < loaded.start || position >= loaded.end {
      let wanted = ByteRange(
        start: position, end: min(position + UInt64(buffer.byteCount), byteCount))
      let memory = buffer
      var all = memory.mutableBytes
      var target = all._mutatingExtracting(0..<Int(wanted.count))
      try image.read(into: &target, at: position)
      loaded = wanted
    }
    return (Int(position - loaded.start), Int(min(count, loaded.end - position)))
  }

  private func difference(_ offset: UInt64, _ name: String) -> JournalError {
    JournalError(.failed, "what was read back differs from \(name) at byte \(offset)")
  }
}

extension RawSpan {
  fileprivate func byte(at index: Int) -> UInt8 { bigEndian(at: index, as: UInt8.self) }
}
