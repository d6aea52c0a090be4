package import Bytes
package import NBDProtocol

// The seam between the wire and whatever keeps the bytes. The server calls it from its connection threads;
// nothing here knows what a journal is.

/// Finds exports by the name that a client gives.
package protocol ExportDirectory: Sendable {
  /// What the export `name` looks like to the machine that negotiates, or nil when there is none.
  func find(_ name: String) -> ExportDescription?
  /// Every export, for NBD_OPT_LIST.
  func list() -> [ExportDescription]
  /// Binds a connection to the export that `find` described. Called once, at NBD_OPT_GO or EXPORT_NAME,
  /// before the reply is sent. Throws when the export is gone or refuses (the client gets the message).
  func open(_ name: String) throws(ExportError) -> any ExportSession
}

/// One connection's use of one export. Methods may be called from several threads of that connection, and
/// they may block; a blocked call delays that connection only.
///
/// Ranges are already inside the export and the commands allowed by its flags: the protocol machine saw to
/// it.
package protocol ExportSession: AnyObject, Sendable {
  /// Reads `range` into `target` (same size), or parks.
  ///
  /// `.served` lists the pieces of `range`, in order and without gaps; bytes of `.hole` pieces are zeroes and
  /// need not have been stored in `target`… but are, so that a simple reply can send `target` as it is.
  /// `.parked`: what is missing has not arrived; the waiter made by `waiter` will be woken exactly once, and
  /// the read is then called again, with `isRetry`, as often as it takes. `since` is when the request came
  /// in (nanoseconds of `MonotonicClock`), at every call: time limits count from there.
  ///
  /// Without `mayBlock` the call waits for nothing but the export's own memory and disk. If more is needed it answers
  /// `.blocks`, having made no waiter, and is called again with `mayBlock` on a thread that may wait.
  func read(
    _ range: ByteRange, into target: inout MutableRawSpan, since: UInt64, isRetry: Bool, mayBlock: Bool,
    waiter: () -> ReadWaiter
  ) throws(ExportError) -> ReadOutcome

  /// Room for the payload of a write to `range`. Blocks while the journal is full (back-pressure).
  func reserve(_ range: ByteRange) throws(ExportError) -> any WriteReservation

  /// Makes `range` read as zeroes. `mayTrim` is false under NBD_CMD_FLAG_NO_HOLE. The result, if any, runs after the
  /// reply was sent, or when it is known that the reply waits for a flush.
  func writeZeroes(_ range: ByteRange, mayTrim: Bool) throws(ExportError) -> AfterReply?

  /// Says that the content of `range` no longer matters. The result is as that of `writeZeroes`.
  func trim(_ range: ByteRange) throws(ExportError) -> AfterReply?

  /// Returns when everything changed before the call, and everything acknowledged before it on any connection, survives
  /// power loss. Called on a thread of its own, for FLUSH and for changes with FUA.
  func flush() throws(ExportError)

  /// A write or a zeroing without FUA was answered `nanoseconds` after its request was there.
  func didAcknowledge(nanoseconds: UInt64)

  /// A read of `range` was served and its reply is sent. On the thread that sent it.
  func didAnswerRead(_ range: ByteRange)

  /// `range` is about to be read: what that takes may be fetched now. Says nothing of what came of it.
  func cache(_ range: ByteRange)

  /// What the metadata context of that name, one of the export's, says of `range`, from its start: neighbouring extents
  /// differ, the lengths add up to at most `range` and at least one byte. At most `limit` extents (≥ 1).
  func blockStatus(_ range: ByteRange, context: String, limit: Int) throws(ExportError) -> [BlockExtent]

  /// The connection has ended and no call is running any more. `cleanly` when it ended with NBD_CMD_DISC.
  func close(cleanly: Bool)
}

extension ExportSession {
  /// Most do nothing then.
  package func didAnswerRead(_ range: ByteRange) {}

  /// Most keep no count.
  package func didAcknowledge(nanoseconds: UInt64) {}
}

/// Work that must wait until the reply is on the wire (waking the readers that a write serves).
package typealias AfterReply = @Sendable () -> Void

/// Where the payload of one write goes. Exactly one of `commit` and `abandon` is called, once.
package protocol WriteReservation: AnyObject {
  /// The memory for the payload: exactly the size of the range. Valid until `commit`, `abandon` or `payloadIsLate`.
  @unsafe var memory: UnsafeMutableRawBufferPointer { get }
  /// The payload is there: makes the write true. The result is as that of `writeZeroes`.
  func commit() throws(ExportError) -> AfterReply?
  /// The payload is late: `received` bytes of it are in `memory`, and since `since` (nanoseconds of `MonotonicClock`)
  /// hardly any more. Called every now and then while that is so; `memory` may be another afterwards, with those bytes
  /// in it. Throws when the sender has to go because others cannot wait for it: then `abandon` follows, and the
  /// connection is dropped.
  func payloadIsLate(received: Int, since: UInt64) throws(ExportError)
  /// The payload never came: nothing happened.
  func abandon()
}

/// What a read came to.
package enum ReadOutcome: Sendable {
  /// The target is filled.
  case served([ReadPiece])
  /// The waiter is registered and will be woken exactly once.
  case parked
  /// It takes a thread that may wait. Never the outcome of a call with `mayBlock`.
  case blocks
}

/// A piece of a read's answer.
package struct ReadPiece: Sendable, Equatable {
  /// Bytes of the export, not of the reply.
  package var range: ByteRange
  /// Whether the piece is known to be all zeroes, so that it can go as a hole chunk.
  package var isHole: Bool

  /// A hole says that the target is zero there.
  package init(range: ByteRange, isHole: Bool) {
    self.range = range
    self.isHole = isHole
  }
}

/// A read that waits. The export calls `wake` once, from any thread, without holding a lock. Once the session
/// was told to `close` it need not, and a wake that comes late does nothing.
package final class ReadWaiter: Sendable {
  private let onWake: @Sendable (ReadWake) -> Void

  /// A waiter that calls `onWake` (which must not block) when it is woken.
  package init(onWake: @escaping @Sendable (ReadWake) -> Void) {
    self.onWake = onWake
  }

  /// The wait is over.
  package func wake(_ reason: ReadWake) { onWake(reason) }
}

/// Why a parked read is woken.
package enum ReadWake: Sendable {
  /// Read again: what was missing arrived, or the answer is known for another reason.
  case retry
  /// The read fails (timeout, shutdown, no space).
  case failed(ExportError)
}

/// A failure to tell the client: an NBD error number and a sentence.
package struct ExportError: Error, Sendable {
  /// What simple and structured replies carry.
  package var code: NBDError
  /// A sentence for people; clients see it while they negotiate and in structured replies.
  package var message: String

  /// An error for one request or one negotiation: the connection lives on.
  package init(_ code: NBDError, _ message: String) {
    self.code = code
    self.message = message
  }
}
