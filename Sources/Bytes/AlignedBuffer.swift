/// Memory on a 4 KiB boundary, as O_DIRECT wants it; freed with the last reference.
///
/// Not synchronised: one thread at a time may write, and nobody may read meanwhile.
@safe
package final class AlignedBuffer: @unchecked Sendable {
  // Sendable: whoever holds the buffer hands it on whole; the owner's protocol keeps writers apart.
  private let memory: UnsafeMutableRawBufferPointer

  /// The alignment in bytes, which is also the unit sizes should be rounded to for O_DIRECT.
  package static let alignment = 4096

  /// Uninitialised memory of `byteCount` bytes (≥ 1).
  package init(byteCount: Int) {
    precondition(byteCount > 0, "an aligned buffer is never empty")
    unsafe memory = .allocate(byteCount: byteCount, alignment: Self.alignment)
  }

  deinit { unsafe memory.deallocate() }

  /// Size in bytes.
  package var byteCount: Int { unsafe memory.count }

  /// The bytes, for reading.
  package var bytes: RawSpan {
    @_lifetime(borrow self) get {
      // SAFETY: the memory lives as long as self, which the result borrows.
      let span = unsafe RawSpan(_unsafeBytes: UnsafeRawBufferPointer(memory))
      return unsafe _overrideLifetime(span, borrowing: self)
    }
  }

  /// The bytes, for writing. The caller is the only user of the buffer meanwhile.
  package var mutableBytes: MutableRawSpan {
    @_lifetime(borrow self) get {
      // SAFETY: the memory lives as long as self, which the result borrows.
      let span = unsafe MutableRawSpan(_unsafeBytes: memory)
      return unsafe _overrideLifetime(span, borrowing: self)
    }
  }

  /// The raw memory, for system calls. Valid while self lives.
  @unsafe package var raw: UnsafeMutableRawBufferPointer { unsafe memory }
}
