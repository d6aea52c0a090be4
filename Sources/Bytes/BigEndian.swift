// The one codec for integers in bytes. Wire (NBD) and disk (journal) are both big-endian, so there is no
// second one. Reads and writes are bounds-checked by the span.

extension RawSpan {
  /// The big-endian integer at `offset` (bytes). Traps when it does not lie inside the span.
  @inlinable
  package func bigEndian<Value: FixedWidthInteger & BitwiseCopyable>(
    at offset: Int, as type: Value.Type = Value.self
  ) -> Value {
    precondition(offset >= 0 && offset <= byteCount - MemoryLayout<Value>.size, "integer outside the span")
    // SAFETY: the precondition keeps the load inside the span, and every bit pattern of an integer is valid.
    return unsafe Value(bigEndian: unsafeLoadUnaligned(fromUncheckedByteOffset: offset, as: type))
  }
}

extension MutableRawSpan {
  /// Stores `value` big-endian at `offset` (bytes). Traps when it does not fit.
  @inlinable
  package mutating func storeBigEndian<Value: FixedWidthInteger & BitwiseCopyable>(
    _ value: Value, at offset: Int
  ) {
    precondition(offset >= 0 && offset <= byteCount - MemoryLayout<Value>.size, "integer outside the span")
    storeBytes(of: value.bigEndian, toByteOffset: offset, as: Value.self)
  }
}

extension [UInt8] {
  /// Appends `value` in big-endian order.
  @inlinable
  package mutating func appendBigEndian<Value: FixedWidthInteger>(_ value: Value) {
    var shift = Value.bitWidth
    while shift > 0 {
      shift -= 8
      append(UInt8(truncatingIfNeeded: value >> Value(shift)))
    }
  }

  /// The big-endian integer at `offset`, or nil when the array is too short.
  @inlinable
  package func bigEndian<Value: FixedWidthInteger & BitwiseCopyable>(
    at offset: Int, as type: Value.Type = Value.self
  ) -> Value? {
    guard offset >= 0, offset <= count - MemoryLayout<Value>.size else { return nil }
    // SAFETY: bytes of UInt8 have no padding.
    return unsafe span.bytes.bigEndian(at: offset, as: type)
  }
}
