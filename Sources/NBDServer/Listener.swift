internal import Bytes
internal import CSupport
internal import Glibc
internal import Threads

/// Accepts connections on one address, which may be several sockets (a host name's addresses).
final class Listener: @unchecked Sendable {
  // Sendable: everything is set before the thread starts; `thread` is used by start and stop alone.
  // SAFETY: what a system call is given by address lives until it returns.
  private let sockets: ListeningSockets
  private let stopEvent: Int32
  private let log: ServerLog
  private var thread: WorkerThread?

  init(_ sockets: consuming ListeningSockets, log: @escaping ServerLog) throws(ServerError) {
    self.sockets = sockets
    self.log = log
    stopEvent = spw_event()
    if stopEvent < 0 { throw ServerError("\(self.sockets.address): eventfd: \(SystemError.text(errno))") }
  }

  deinit { close(stopEvent) }

  /// Where clients connect.
  var address: ListenAddress { sockets.address }

  /// Starts to accept; `take` gets each connection's descriptor, which is then its own.
  func start(_ take: @escaping @Sendable (Int32) -> Void) throws(ServerError) {
    thread = WorkerThread(name: "nbd-accept") { self.acceptAll(take) }
    if thread == nil { throw ServerError("\(address): no thread left to accept connections") }
  }

  /// Stops accepting and waits for the thread. The sockets close with the listener.
  func stop() {
    var one: UInt64 = 1
    // SAFETY: an eventfd takes eight bytes.
    _ = unsafe write(stopEvent, &one, 8)
    thread?.join()
    thread = nil
  }

  private func acceptAll(_ take: @Sendable (Int32) -> Void) {
    // What went wrong last, so that it is said once and not with every attempt.
    var trouble: Int32 = 0
    while true {
      var entries = [pollfd(fd: stopEvent, events: Int16(POLLIN), revents: 0)]
      entries += sockets.descriptors.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
      let count = unsafe poll(&entries, nfds_t(entries.count), -1)
      if entries[0].revents != 0 { return }
      guard count > 0 else { continue }
      for entry in entries.dropFirst() where entry.revents != 0 {
        acceptOne(entry.fd, &trouble, take)
      }
    }
  }

  private func acceptOne(_ descriptor: Int32, _ trouble: inout Int32, _ take: @Sendable (Int32) -> Void) {
    let accepted = spw_accept(descriptor)
    if accepted >= 0 {
      trouble = 0
      return take(accepted)
    }
    let code = errno
    switch code {
    case EINTR, EAGAIN, ECONNABORTED: return
    default:
      // Most likely no descriptor is left (EMFILE). The client stays in the queue; waiting gives the
      // others time to end, and keeps this thread from spinning.
      if code != trouble { log(.error, "\(address): accept: \(SystemError.text(code)); clients wait") }
      trouble = code
      var entry = pollfd(fd: stopEvent, events: Int16(POLLIN), revents: 0)
      _ = unsafe poll(&entry, 1, 100)
    }
  }
}
