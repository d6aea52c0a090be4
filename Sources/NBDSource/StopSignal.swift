internal import CSupport
internal import Glibc

/// A word that ends every wait of a source, given once and never taken back.
///
/// It is an eventfd that nobody drains: all who poll it beside their socket wake at once, and so does whoever polls it
/// later.
final class StopSignal: Sendable {
  /// What to poll; readable once `give` was called.
  let descriptor: Int32

  /// A signal not yet given.
  init() throws(SourceError) {
    descriptor = spw_event()
    guard descriptor >= 0 else { throw SourceError(message: "no event descriptor is left for the source") }
  }

  deinit { close(descriptor) }

  /// Wakes everybody, now and for ever.
  func give() {
    var one: UInt64 = 1
    // SAFETY: an eventfd takes exactly the eight bytes of `one`.
    let written = unsafe write(descriptor, &one, MemoryLayout<UInt64>.size)
    assert(written == MemoryLayout<UInt64>.size, "an eventfd that is not full takes a one")
  }
}
