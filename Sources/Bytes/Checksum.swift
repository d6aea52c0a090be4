internal import CXXHash

/// XXH3, 64 bits, seeded: the journal's one checksum, over headers and over stored payloads.
///
/// The seed is the salt of the segment (or of the spool ring), so that bytes of an earlier life of the same
/// blocks can never pass. Algorithm: https://xxhash.com, XXH3_64bits_withSeed.
package enum Checksum {
  /// The checksum of `bytes` under `seed`.
  package static func xxh3(_ bytes: RawSpan, seed: UInt64) -> UInt64 {
    // SAFETY: the pointer is used only inside the closure, for exactly the bytes of the span.
    unsafe bytes.withUnsafeBytes { unsafe XXH3_64bits_withSeed($0.baseAddress, $0.count, seed) }
  }
}
