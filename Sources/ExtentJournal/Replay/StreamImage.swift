package import Bytes
internal import Glibc

/// A raw image as a stream: every byte of the disk in order, zeroes as well.
package final class StreamImage: ImageSink {
  private let file: ImageDescriptor
  private var position: UInt64 = 0

  /// Writes to `descriptor`, which its owner keeps open; `name` is for errors. A pipe that nobody reads any more must be
  /// an error and no signal: the caller ignores SIGPIPE.
  package init(_ descriptor: Int32, name: String) {
    file = ImageDescriptor(lent: descriptor, name: name)
  }

  /// Writes the next `bytes`; `offset` is where the last call ended.
  package func write(_ bytes: RawSpan, at offset: UInt64) throws(JournalError) {
    advance(ByteRange(offset: offset, count: UInt64(bytes.byteCount)))
    try sayingWhoLeft { () throws(JournalError) in try file.write(bytes, at: nil) }
  }

  /// Writes as many zeroes.
  package func writeZeroes(_ range: ByteRange) throws(JournalError) {
    advance(range)
    try sayingWhoLeft { () throws(JournalError) in try file.writeZeroes(range.count, at: nil) }
  }

  /// Syncs what is a file after all.
  package func finish() throws(JournalError) { try file.sync() }

  private func advance(_ range: ByteRange) {
    precondition(range.start == position, "a stream takes everything in order")
    position = range.end
  }

  private func sayingWhoLeft(_ body: () throws(JournalError) -> Void) throws(JournalError) {
    do throws(JournalError) { try body() } catch {
      guard errno == EPIPE else { throw error }
      throw JournalError(.failed, "whoever read \(file.name) went away before its end")
    }
  }
}
