// The live disk: where a view reads what has not arrived.
//
// Reads come from many threads at once and each takes a round trip, so the connections are as many as the readers, up to
// a bound. Nothing here is cached and nothing is read ahead: whether the bytes are the right ones is decided after the
// read ended (docs/architecture.md), and a byte read too early or kept too long would be a wrong one.

package import Bytes
internal import Threads

/// The disk that a hypervisor exports, as a client of its NBD server.
package final class NBDSource: @unchecked Sendable {
  // Sendable: it only holds what is constant or guards itself.
  private let pool: ConnectionPool
  private let stop: StopSignal
  private let uri: String
  private let blockSizes: BlockSizes

  /// Bytes of the disk.
  package let byteCount: UInt64

  /// Connects to the export at `uri` (any that libnbd takes), within 10 seconds.
  ///
  /// Further connections are made when several threads read at once, up to `connectionsMax`, and only if the export says
  /// that it takes several or nobody can write to it.
  package init(uri: String, connectionsMax: Int = 8) throws(SourceError) {
    precondition(connectionsMax > 0, "a source needs a connection")
    self.uri = uri
    stop = try StopSignal()
    do throws(SourceConnection.Failure) {
      let first = try SourceConnection(uri: uri, within: ConnectionPool.patienceNanoseconds, stop: stop)
      byteCount = try first.byteCount()
      blockSizes = first.blockSizes()
      let countMax = first.takesSeveralConnections() ? connectionsMax : 1
      pool = ConnectionPool(first, byteCount: byteCount, openCountMax: countMax, stop: stop)
    } catch {
      throw SourceError(message: "the source at \(uri) cannot be reached: \(error.text)")
    }
  }

  deinit { pool.close() }

  /// Fills `target`, which is as long as `range`, with the bytes of `range`, which lies in the disk.
  ///
  /// Any thread; blocks, without a limit of its own, until the server has answered or `close` is called. A connection
  /// that died is replaced once. On an error what `target` holds is not defined.
  package func read(_ range: ByteRange, into target: inout MutableRawSpan) throws(SourceError) {
    precondition(range.end <= byteCount, "a read beyond the end of the source")
    precondition(UInt64(target.byteCount) == range.count, "a target of another size than the range")
    guard !range.isEmpty else { return }
    do throws(SourceConnection.Failure) {
      var connection = try pool.take()
      do throws(SourceConnection.Failure) {
        try readAll(range, into: &target, from: connection)
      } catch .lost {
        connection.close()
        connection = try pool.replace()
        try giveBack(connection) { () throws(SourceConnection.Failure) in
          try readAll(range, into: &target, from: connection)
        }
        return
      } catch {
        end(connection, after: error)
        throw error
      }
      pool.give(connection)
    } catch {
      throw SourceError(message: "the source at \(uri) cannot be read: \(error.text)")
    }
  }

  /// Ends every read in flight at once, with an error, and all later ones. Does not wait for them to return.
  package func close() { pool.close() }

  /// The ranges that the bitmap `bitmap` of the export calls dirty, merged, ascending.
  ///
  /// The export must offer the meta context `qemu:dirty-bitmap:BITMAP`. Blocks, over a connection of its own; `close`
  /// ends it too.
  package func dirtyRanges(bitmap: String) throws(SourceError) -> [ByteRange] {
    do throws(SourceConnection.Failure) {
      let context = "qemu:dirty-bitmap:\(bitmap)"
      let connection = try SourceConnection(
        uri: uri, context: context, within: ConnectionPool.patienceNanoseconds, stop: stop)
      defer { connection.close() }
      guard connection.hasContext(context) else { throw .refused("the export does not offer \(context)") }
      guard try connection.byteCount() == byteCount else { throw .refused("its size has changed") }
      return try connection.dirtyRanges(of: context, diskByteCount: byteCount, unit: blockSizes.minimum)
    } catch {
      throw SourceError(message: "the bitmap \(bitmap) of the source at \(uri) cannot be read: \(error.text)")
    }
  }

  private func readAll(
    _ range: ByteRange, into target: inout MutableRawSpan, from connection: SourceConnection
  ) throws(SourceConnection.Failure) {
    for request in blockSizes.requests(for: range, diskByteCount: byteCount) {
      if let wanted = request.intersection(range), wanted == request {
        let place = Int(request.start - range.start)
        var part = target._mutatingExtracting(place..<place + Int(request.count))
        try connection.read(at: request.start, into: &part)
      } else {
        try readWidened(request, for: range, into: &target, from: connection)
      }
    }
  }

  /// Reads a request that reaches beyond `range` aside, and copies what `range` has of it.
  private func readWidened(
    _ request: ByteRange, for range: ByteRange, into target: inout MutableRawSpan,
    from connection: SourceConnection
  ) throws(SourceConnection.Failure) {
    guard let wanted = request.intersection(range) else { return }
    let buffer = AlignedBuffer(byteCount: Int(request.count))
    var whole = buffer.mutableBytes
    try connection.read(at: request.start, into: &whole)
    let first = Int(wanted.start - request.start)
    target.copy(
      buffer.bytes.extracting(first..<first + Int(wanted.count)), at: Int(wanted.start - range.start))
  }

  /// Gives `connection` back after `use`, or ends it if that is what `use` left of it.
  private func giveBack(
    _ connection: SourceConnection, after use: () throws(SourceConnection.Failure) -> Void
  ) throws(SourceConnection.Failure) {
    do throws(SourceConnection.Failure) { try use() } catch {
      end(connection, after: error)
      throw error
    }
    pool.give(connection)
  }

  private func end(_ connection: SourceConnection, after failure: SourceConnection.Failure) {
    if case .refused = failure { return pool.give(connection) }
    connection.close()
    pool.drop()
  }
}
