extension RawSpan {
  /// Whether every byte is zero. Stops at the first word that is not.
  package var isAllZero: Bool {
    var offset = 0
    let wide = byteCount & ~31
    while offset < wide {
      // SAFETY: offset + 32 ≤ byteCount, and integers take any bit pattern.
      let word = unsafe unsafeLoadUnaligned(fromUncheckedByteOffset: offset, as: SIMD4<UInt64>.self)
      if word != .zero { return false }
      offset += 32
    }
    while offset < byteCount {
      // SAFETY: offset < byteCount.
      if unsafe unsafeLoad(fromUncheckedByteOffset: offset, as: UInt8.self) != 0 { return false }
      offset += 1
    }
    return true
  }
}
