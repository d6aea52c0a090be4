// An NBD export as the place where an image is written: the other direction of a source.
//
// One connection, driven by one thread. What is written is copied into buffers of its own and adjacent pieces are gathered,
// so that a request is of a size that servers like; up to sixteen are on their way. An error belongs to any of them: who
// gets one knows that the image is incomplete, not where.
//
// Zeroes are WRITE_ZEROES where the server has it, and it may punch holes. FAST_ZERO is not asked for: a server that has to
// write the zeroes itself is still better off than one that is sent them.

package import Bytes
internal import Threads

/// An export that is being written. For one thread at a time.
package final class NBDTarget {
  private let connection: SourceConnection
  private let name: String
  private let sizes: BlockSizes
  private let canZero: Bool
  private var inFlight: [(cookie: Int64, buffer: AlignedBuffer?)] = []
  private var spare: [AlignedBuffer] = []
  /// What is gathered and not yet sent.
  private var gathered: (buffer: AlignedBuffer, offset: UInt64, count: Int)?

  /// Bytes of the export.
  package let byteCount: UInt64

  private static let requestBytes = 512 << 10
  private static let inFlightMax = 16
  /// What one WRITE_ZEROES covers at most: a server may take its time for each.
  private static let zeroBytesMax: UInt64 = 256 << 20
  /// Blocks of the disks that are written: no export may ask for larger ones.
  private static let unit: UInt64 = 512

  /// Connects to the export at `uri` (any that libnbd takes), within 10 seconds.
  package convenience init(uri: String) throws(SourceError) {
    try self.init(named: uri) { (stop) throws(SourceConnection.Failure) in
      try SourceConnection(uri: uri, within: ConnectionPool.patienceNanoseconds, stop: stop)
    }
  }

  /// Speaks over `socket`, a connected one that it takes over. `name` is what errors call it.
  package convenience init(adopting socket: Int32, named name: String) throws(SourceError) {
    try self.init(named: name) { (stop) throws(SourceConnection.Failure) in
      try SourceConnection(
        adopting: socket, name: name, within: ConnectionPool.patienceNanoseconds, stop: stop)
    }
  }

  private init(
    named name: String,
    _ connect: (StopSignal) throws(SourceConnection.Failure) -> SourceConnection
  ) throws(SourceError) {
    self.name = name
    let stop = try StopSignal()
    do throws(SourceConnection.Failure) {
      connection = try connect(stop)
      byteCount = try connection.byteCount()
    } catch {
      throw SourceError(message: "\(name) cannot be reached: \(error.text)")
    }
    sizes = connection.blockSizes()
    canZero = connection.canZero
    guard !connection.isReadOnly else {
      throw SourceError(message: "\(name) cannot be written: the server exports it read-only")
    }
    guard sizes.minimum <= Self.unit else {
      throw SourceError(
        message:
          "\(name) takes blocks of \(sizes.minimum) bytes and more, and disks have sectors of \(Self.unit); put nbdkit's blocksize filter in front of it"
      )
    }
  }

  deinit { connection.close() }

  /// Hangs up. What was not flushed may be lost, and nothing more is possible.
  package func close() { connection.close() }

  /// Writes `bytes` at `offset` by and by; `flush` waits for it.
  package func write(_ bytes: RawSpan, at offset: UInt64) throws(SourceError) {
    precondition(offset + UInt64(bytes.byteCount) <= byteCount, "a write beyond the end of the target")
    try reporting("written") { () throws(SourceConnection.Failure) in
      var done = 0
      while done < bytes.byteCount {
        let position = offset + UInt64(done)
        if let open = gathered, open.offset + UInt64(open.count) != position || open.count == requestBytes {
          try send()
        }
        var open = gathered ?? (takeBuffer(), position, 0)
        let count = min(bytes.byteCount - done, requestBytes - open.count)
        let buffer = open.buffer
        var target = buffer.mutableBytes
        target.copy(bytes.extracting(done..<done + count), at: open.count)
        open.count += count
        gathered = open
        done += count
      }
    }
  }

  /// Makes `range` read as zeroes by and by; `flush` waits for it.
  package func writeZeroes(_ range: ByteRange) throws(SourceError) {
    precondition(range.end <= byteCount, "zeroes beyond the end of the target")
    guard canZero else { return try sendZeroes(range) }
    try reporting("written") { () throws(SourceConnection.Failure) in
      try send()
      var position = range.start
      while position < range.end {
        let part = ByteRange(start: position, end: min(range.end, position + Self.zeroBytesMax))
        try makeRoom()
        inFlight.append((try connection.beginZero(part), nil))
        position = part.end
      }
    }
  }

  /// Waits for everything, and makes it durable if the server can.
  package func flush() throws(SourceError) {
    try reporting("written") { () throws(SourceConnection.Failure) in
      try send()
      while !inFlight.isEmpty { try finishOldest() }
      if connection.canFlush { try connection.flush() }
    }
  }

  /// Fills `target` with what the export has from `offset` on. Everything written must have been flushed.
  package func read(into target: inout MutableRawSpan, at offset: UInt64) throws(SourceError) {
    precondition(inFlight.isEmpty && gathered == nil, "a read behind writes that are not flushed")
    precondition(offset + UInt64(target.byteCount) <= byteCount, "a read beyond the end of the target")
    do throws(SourceConnection.Failure) {
      var begun = 0
      var done = 0
      while done < target.byteCount {
        while begun < target.byteCount, inFlight.count < Self.inFlightMax {
          let count = min(requestBytes, target.byteCount - begun)
          let buffer = takeBuffer()
          inFlight.append(
            (try connection.beginRead(buffer, count: count, at: offset + UInt64(begun)), buffer))
          begun += count
        }
        let first = inFlight[0]
        try connection.finish(first.cookie)
        inFlight.removeFirst()
        guard let buffer = first.buffer else { continue }
        let count = min(requestBytes, target.byteCount - done)
        target.copy(buffer.bytes.extracting(0..<count), at: done)
        spare.append(buffer)
        done += count
      }
    } catch {
      connection.close()
      throw SourceError(message: "\(name) cannot be read back: \(error.text)")
    }
  }

  private var requestBytes: Int { Int(min(UInt64(Self.requestBytes), sizes.maximum)) / 512 * 512 }

  private func sendZeroes(_ range: ByteRange) throws(SourceError) {
    let zeroes = AlignedBuffer(byteCount: Self.requestBytes)
    var memory = zeroes.mutableBytes
    memory.zero()
    var position = range.start
    while position < range.end {
      let count = Int(min(range.end - position, UInt64(Self.requestBytes)))
      try write(zeroes.bytes.extracting(0..<count), at: position)
      position += UInt64(count)
    }
  }

  /// Sends what is gathered.
  private func send() throws(SourceConnection.Failure) {
    guard let open = gathered else { return }
    try makeRoom()
    gathered = nil
    let cookie = try connection.beginWrite(open.buffer, count: open.count, at: open.offset)
    inFlight.append((cookie, open.buffer))
  }

  private func makeRoom() throws(SourceConnection.Failure) {
    while inFlight.count >= Self.inFlightMax { try finishOldest() }
  }

  private func finishOldest() throws(SourceConnection.Failure) {
    // It stays in the list, and its buffer alive, until the command is over or the connection closed.
    try connection.finish(inFlight[0].cookie)
    if let buffer = inFlight.removeFirst().buffer { spare.append(buffer) }
  }

  private func takeBuffer() -> AlignedBuffer {
    spare.popLast() ?? AlignedBuffer(byteCount: Self.requestBytes)
  }

  /// After an error nothing more is possible: the connection is closed, before the buffers of its commands may go.
  private func reporting(
    _ what: String, _ body: () throws(SourceConnection.Failure) -> Void
  ) throws(SourceError) {
    do throws(SourceConnection.Failure) { try body() } catch {
      connection.close()
      throw SourceError(message: "\(name) cannot be \(what): \(error.text)")
    }
  }
}
