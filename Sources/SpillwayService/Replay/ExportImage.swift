internal import Bytes
internal import ExtentJournal
internal import NBDSource

/// An NBD export that a replay writes.
final class ExportImage: ImageSink, ImageReader {
  private let target: NBDTarget
  /// Whether it reads as zeroes where nothing was written.
  private let isFresh: Bool

  /// Writes to `target`, whose content counts unless it is fresh.
  init(_ target: NBDTarget, isFresh: Bool) {
    self.target = target
    self.isFresh = isFresh
  }

  func write(_ bytes: RawSpan, at offset: UInt64) throws(JournalError) {
    do throws(SourceError) { try target.write(bytes, at: offset) } catch { throw JournalError(error) }
  }

  func writeZeroes(_ range: ByteRange) throws(JournalError) {
    guard !isFresh else { return }
    do throws(SourceError) { try target.writeZeroes(range) } catch { throw JournalError(error) }
  }

  func finish() throws(JournalError) {
    do throws(SourceError) { try target.flush() } catch { throw JournalError(error) }
  }

  func read(into bytes: inout MutableRawSpan, at offset: UInt64) throws(JournalError) {
    do throws(SourceError) { try target.read(into: &bytes, at: offset) } catch { throw JournalError(error) }
  }
}

extension JournalError {
  fileprivate init(_ error: SourceError) { self.init(.failed, error.message) }
}
