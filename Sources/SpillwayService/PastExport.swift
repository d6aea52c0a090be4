internal import Bytes
internal import ExtentJournal
internal import NBDProtocol
internal import NBDServer

/// The export `NAME@=SEQUENCE`: a disk as it was at the end of a batch, read-only.
enum PastExport {
  /// What it looks like, whether or not the sequence ends a batch: that is found out when it is opened.
  static func describe(_ name: PastName, of disk: Disk) -> ExportDescription {
    ExportDescription(
      name: "\(disk.name)@=\(name.sequence)",
      text: "disk \(disk.name) as it was at sequence \(name.sequence)",
      byteCount: disk.byteCount, isReadOnly: true, minimumBlock: 1,
      contexts: [ExportDescription.allocationContext])
  }

  /// Opens it: the horizon does not pass it until the session is closed.
  static func open(_ name: PastName, in journal: Journal) throws(ExportError) -> any ExportSession {
    do throws(JournalError) {
      return PastSession(try journal.disk(name.disk, at: name.sequence))
    } catch {
      throw ExportError(error)
    }
  }
}

/// A connection that reads the past.
private final class PastSession: ExportSession {
  private let disk: PastDisk

  init(_ disk: PastDisk) { self.disk = disk }

  func read(
    _ range: ByteRange, into target: inout MutableRawSpan, since: UInt64, isRetry: Bool,
    mayBlock: Bool, waiter: () -> ReadWaiter
  ) throws(ExportError) -> ReadOutcome {
    do throws(JournalError) {
      return .served(
        try disk.read(range, into: &target).map { ReadPiece(range: $0.range, isHole: $0.isZero) })
    } catch {
      throw ExportError(error)
    }
  }

  func reserve(_ range: ByteRange) throws(ExportError) -> any WriteReservation { throw Self.readOnly }

  func writeZeroes(_ range: ByteRange, mayTrim: Bool) throws(ExportError) -> AfterReply? {
    throw Self.readOnly
  }

  func trim(_ range: ByteRange) throws(ExportError) -> AfterReply? { throw Self.readOnly }

  func flush() throws(ExportError) {}

  func cache(_ range: ByteRange) {}

  func blockStatus(_ range: ByteRange, context: String, limit: Int) throws(ExportError) -> [BlockExtent] {
    do throws(JournalError) {
      return try disk.status(range, limit: limit).map { BlockExtent($0) }
    } catch {
      throw ExportError(error)
    }
  }

  func close(cleanly: Bool) {}

  private static let readOnly = ExportError(.notPermitted, "the past takes no writes")
}
