internal import Glibc

extension MutableRawSpan {
  /// Sets every byte to zero.
  package mutating func zero() {
    // SAFETY: the pointer covers exactly the span.
    unsafe withUnsafeMutableBytes { raw in
      _ = unsafe raw.initializeMemory(as: UInt8.self, repeating: 0)
    }
  }

  /// Sets the bytes of `range`, which lies in the span, to zero.
  package mutating func zero(_ range: Range<Int>) {
    // SAFETY: rebasing a slice checks that the range lies in the span.
    unsafe withUnsafeMutableBytes { raw in
      _ = unsafe UnsafeMutableRawBufferPointer(rebasing: raw[range]).initializeMemory(
        as: UInt8.self, repeating: 0)
    }
  }

  /// Copies all of `source` to `offset`. Traps when it does not fit.
  package mutating func copy(_ source: RawSpan, at offset: Int) {
    precondition(offset >= 0 && offset + source.byteCount <= byteCount, "copy outside the span")
    // SAFETY: inside the span by the precondition; source and target never overlap (exclusive access).
    unsafe withUnsafeMutableBytes { target in
      unsafe source.withUnsafeBytes { from in
        guard let base = from.baseAddress, let to = target.baseAddress else { return }
        unsafe (to + offset).copyMemory(from: base, byteCount: from.count)
      }
    }
  }
}

extension RawSpan {
  /// Whether both have the same bytes.
  package func equals(_ other: RawSpan) -> Bool {
    guard byteCount == other.byteCount else { return false }
    guard byteCount > 0 else { return true }
    // SAFETY: memcmp reads byteCount bytes of each, which both have.
    return unsafe withUnsafeBytes { a in
      unsafe other.withUnsafeBytes { b in
        unsafe memcmp(a.baseAddress!, b.baseAddress!, a.count) == 0
      }
    }
  }
}
