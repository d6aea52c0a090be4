package import Bytes

// Where a replay goes: a file, a device, a pipe, an NBD export. The replay knows what a generation holds and says it in the
// order of the disk; an image knows how its medium takes data and zeroes.

/// An image that is being written.
package protocol ImageSink: AnyObject {
  /// Writes `bytes` at `offset` (bytes of the disk, whole sectors). Calls come in ascending order and do not overlap.
  func write(_ bytes: RawSpan, at offset: UInt64) throws(JournalError)
  /// Makes `range` (whole sectors) read as zeroes. In the same order as the writes.
  func writeZeroes(_ range: ByteRange) throws(JournalError)
  /// Makes everything that was written durable, where the medium knows of such a thing.
  func finish() throws(JournalError)
}

/// An image that can be read back after `ImageSink.finish`.
package protocol ImageReader: AnyObject {
  /// Fills `target` with what the image has from `offset` on; all of it lies in the disk.
  func read(into target: inout MutableRawSpan, at offset: UInt64) throws(JournalError)
}
