package import Bytes

/// A request that may be served: inside the export, aligned, allowed.
package struct Request: Equatable, Sendable {
  /// The client's word for the request, which its reply repeats.
  package var cookie: UInt64
  /// Already judged: nothing in it need be checked again.
  package var operation: Operation

  /// Unchecked: the machine makes them after it has judged the message.
  package init(cookie: UInt64, operation: Operation) {
    self.cookie = cookie
    self.operation = operation
  }

  /// What is asked for. `durable` is NBD_CMD_FLAG_FUA.
  package enum Operation: Equatable, Sendable {
    /// With `inOneChunk` (NBD_CMD_FLAG_DF) the data must not be cut up.
    case read(ByteRange, inOneChunk: Bool)
    /// The payload follows: as many bytes as the range has.
    case write(ByteRange, durable: Bool)
    /// `mayTrim` is false under NBD_CMD_FLAG_NO_HOLE.
    case writeZeroes(ByteRange, mayTrim: Bool, durable: Bool)
    case trim(ByteRange, durable: Bool)
    case flush
    /// With `onlyOne` (NBD_CMD_FLAG_REQ_ONE) just the first extent of each of `contexts` (ids) is wanted.
    case blockStatus(ByteRange, contexts: [UInt32], onlyOne: Bool)
  }
}

/// A request that is answered with an error.
package struct Refusal: Equatable, Sendable {
  /// The client's word for the request, as it came.
  package var cookie: UInt64
  /// What goes on the wire.
  package var code: NBDError
  /// A sentence for people.
  package var message: String

  /// The `message` goes on the wire only where structured replies were agreed on.
  package init(cookie: UInt64, code: NBDError, message: String) {
    self.cookie = cookie
    self.code = code
    self.message = message
  }
}
