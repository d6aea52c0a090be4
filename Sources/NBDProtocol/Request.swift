package import Bytes

/// A request that may be served: inside the export, aligned, allowed.
package struct Request: Equatable, Sendable {
  /// Which request it is.
  package var tag: RequestTag
  /// Already judged: nothing in it need be checked again.
  package var operation: Operation

  /// Unchecked: the machine makes them after it has judged the message.
  package init(_ tag: RequestTag, _ operation: Operation) {
    self.tag = tag
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
    /// What is there is about to be read.
    case cache(ByteRange)
    /// With `onlyOne` (NBD_CMD_FLAG_REQ_ONE) just the first extent of each of `contexts` is wanted. There may be none of
    /// those, if the client's payload said so.
    case blockStatus(ByteRange, contexts: [MetaContext], onlyOne: Bool)
  }
}

/// What a reply says of the request it belongs to.
package struct RequestTag: Hashable, Sendable {
  /// The client's word for the request, which its reply repeats.
  package var cookie: UInt64
  /// The offset as it came; extended replies repeat it.
  package var offset: UInt64

  /// Neither number means anything to the server.
  package init(cookie: UInt64, offset: UInt64 = 0) {
    self.cookie = cookie
    self.offset = offset
  }
}

/// A request that is answered with an error.
package struct Refusal: Equatable, Sendable {
  /// Which request it is.
  package var tag: RequestTag
  /// What goes on the wire.
  package var code: NBDError
  /// A sentence for people.
  package var message: String

  /// The `message` goes on the wire only where structured replies were agreed on.
  package init(_ tag: RequestTag, _ code: NBDError, _ message: String) {
    self.tag = tag
    self.code = code
    self.message = message
  }
}
