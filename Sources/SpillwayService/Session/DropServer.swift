internal import Bytes
internal import Glibc
internal import Logging
internal import NBDProtocol
internal import NBDServer

/// The last resort when a session's engine is gone for good: takes the ingest's connections, acknowledges every write and
/// forgets it, so that no write of the guest fails or waits. Its generations must be marked as tainted before.
struct DropServer {
  private let server: Server

  /// Serves the ingest of `plan` on `socket`.
  init(_ plan: SessionPlan, on socket: HeldSocket, log: Logger) throws(ServiceError) {
    server = Server(log: log.forServer)
    do throws(ServerError) {
      try server.listen(
        inheriting: socket.duplicate(), as: .unix(path: plan.ingestSocket), directory: DroppingExports(plan))
    } catch {
      throw .failed("\(error)")
    }
  }

  /// Drops the connections and ends.
  func stop() { server.stop() }
}

/// The ingest exports, with nothing behind them.
private struct DroppingExports: ExportDirectory {
  private let exports: [ExportDescription]

  init(_ plan: SessionPlan) {
    exports = plan.disks.map {
      ExportDescription(
        name: $0.name, text: "takes writes and forgets them: the session is broken", byteCount: $0.byteCount,
        isReadOnly: false, minimumBlock: 512)
    }
  }

  func find(_ name: String) -> ExportDescription? { exports.first { $0.name == name } }
  func list() -> [ExportDescription] { exports }
  func open(_ name: String) throws(ExportError) -> any ExportSession { DroppingSession() }
}

private final class DroppingSession: ExportSession {
  func read(
    _ range: ByteRange, into target: inout MutableRawSpan, since: UInt64, isRetry: Bool, mayBlock: Bool,
    waiter: () -> ReadWaiter
  ) throws(ExportError) -> ReadOutcome {
    throw ExportError(.inputOutput, "nothing is kept here: the session is broken")
  }

  func reserve(_ range: ByteRange) throws(ExportError) -> any WriteReservation {
    DroppedWrite(byteCount: Int(range.count))
  }

  func writeZeroes(_ range: ByteRange, mayTrim: Bool) throws(ExportError) -> AfterReply? { nil }
  func trim(_ range: ByteRange) throws(ExportError) -> AfterReply? { nil }
  func flush() throws(ExportError) {}

  func cache(_ range: ByteRange) {}

  func blockStatus(_ range: ByteRange, context: String, limit: Int) throws(ExportError) -> [BlockExtent] {
    [BlockExtent(byteCount: range.count, flags: 0)]
  }

  func close(cleanly: Bool) {}
}

private final class DroppedWrite: WriteReservation {
  private let buffer: AlignedBuffer

  init(byteCount: Int) { buffer = AlignedBuffer(byteCount: byteCount) }

  // SAFETY: the buffer lives as long as the reservation.
  @unsafe var memory: UnsafeMutableRawBufferPointer { unsafe buffer.raw }
  func commit() throws(ExportError) -> AfterReply? { nil }
  func payloadIsLate(received: Int, since: UInt64) throws(ExportError) {}
  func abandon() {}
}
