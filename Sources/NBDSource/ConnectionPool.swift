internal import Threads

/// The connections of a source: each with one thread at a time, more of them when more threads come.
///
/// Numbers that always hold, under `lock`: `openCount` counts the connections in `free`, those in a thread's hand and
/// those being made; it never passes `openCountMax`. Connecting is done outside the lock.
final class ConnectionPool: @unchecked Sendable {
  // Sendable: everything mutable is guarded by `lock`.
  private let lock = Lock()
  private let changed: Condition
  private var free: [SourceConnection] = []
  private var openCount = 1
  private var openCountMax: Int
  private var isClosed = false
  private let stop: StopSignal
  private let uri: String
  private let byteCount: UInt64

  /// What a server needs to answer, when there is no other connection to wait for.
  static let patienceNanoseconds: UInt64 = 10_000_000_000
  /// What it needs to answer when a connection that works will soon be free.
  static let extraPatienceNanoseconds: UInt64 = 1_000_000_000

  /// A pool of connections like `first`, up to `openCountMax`.
  init(_ first: SourceConnection, byteCount: UInt64, openCountMax: Int, stop: StopSignal) {
    precondition(openCountMax > 0, "a source needs a connection")
    changed = Condition(lock)
    free = [first]
    uri = first.uri
    self.byteCount = byteCount
    self.openCountMax = openCountMax
    self.stop = stop
  }

  /// A connection that is free, or a fresh one, or the next that is given back. Blocks.
  func take() throws(SourceConnection.Failure) -> SourceConnection {
    lock.lock()
    while true {
      if isClosed {
        lock.unlock()
        throw .stopped
      }
      if let connection = free.popLast() {
        lock.unlock()
        return connection
      }
      if openCount < openCountMax { break }
      changed.wait()
    }
    openCount += 1
    let isExtra = openCount > 1
    lock.unlock()
    do throws(SourceConnection.Failure) {
      return try connect(within: isExtra ? Self.extraPatienceNanoseconds : Self.patienceNanoseconds)
    } catch {
      drop()
      if case .stopped = error { throw error }
      guard isExtra, settleForFewer() else { throw error }
      return try take()
    }
  }

  /// Takes `connection`, which works, back for others.
  func give(_ connection: SourceConnection) {
    lock.withLock {
      if !isClosed { free.append(connection) }
      changed.signal()
    }
  }

  /// A connection instead of one in hand that died; if there is none to be had its place is free for others.
  func replace() throws(SourceConnection.Failure) -> SourceConnection {
    do throws(SourceConnection.Failure) {
      return try connect(within: Self.patienceNanoseconds)
    } catch {
      drop()
      throw error
    }
  }

  /// A connection in hand is gone and is not replaced.
  func drop() {
    lock.withLock {
      openCount -= 1
      changed.signal()
    }
  }

  /// Ends every wait, now and later, and all connections as their threads let go of them.
  func close() {
    let unused = lock.withLock {
      isClosed = true
      defer { free = [] }
      changed.broadcast()
      return free
    }
    stop.give()
    for connection in unused { connection.close() }
  }

  /// A connection more was not to be had, as with a server that limits their number: with those that there are one can
  /// go on. False when there is none.
  private func settleForFewer() -> Bool {
    lock.withLock {
      guard openCount > 0 else { return false }
      openCountMax = openCount
      return true
    }
  }

  private func connect(within limitNanoseconds: UInt64) throws(SourceConnection.Failure) -> SourceConnection {
    let connection = try SourceConnection(uri: uri, within: limitNanoseconds, stop: stop)
    let found = try connection.byteCount()
    guard found == byteCount else {
      connection.close()
      throw .refused("it has \(found) bytes now and had \(byteCount) before")
    }
    return connection
  }
}
