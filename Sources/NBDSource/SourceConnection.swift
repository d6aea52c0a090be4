// One connection of libnbd, driven by whichever thread has it in hand.
//
// A handle has one lock, so a connection is one thread's at a time and parallel reads need several (ConnectionPool).
// libnbd's own blocking calls cannot be ended from outside, so every call here is asynchronous and waits in a poll of
// ours, beside the signal that ends all waits. Whoever gives a command up closes the handle before the command's memory
// may go: after `nbd_close` libnbd touches none of it.

internal import Bytes
internal import CLibNBD
internal import Glibc
internal import Threads

/// A connection to the source's export. For one thread at a time.
@safe
final class SourceConnection: @unchecked Sendable {
  // Sendable: whoever has it in hand is alone with it; ConnectionPool hands it on under its lock.
  private(set) var handle: OpaquePointer?
  private let stop: StopSignal
  let uri: String

  /// How a failed call left the connection.
  enum Failure: Error {
    /// The connection is gone, or was given up; a new one may do better.
    case lost(String)
    /// The server refused this request and goes on.
    case refused(String)
    /// The source was closed.
    case stopped

    var text: String {
      switch self {
      case .lost(let text), .refused(let text): text
      case .stopped: "it was closed"
      }
    }
  }

  /// Connects, within `limitNanoseconds`. With a meta context `context`, if one is named.
  init(
    uri: String, context: String? = nil, within limitNanoseconds: UInt64, stop: StopSignal
  ) throws(Failure) {
    self.uri = uri
    self.stop = stop
    unsafe handle = nbd_create()
    guard let handle = unsafe handle else { throw .lost(lastText()) }
    if let context {
      guard unsafe nbd_add_meta_context(handle, context) == 0 else { throw .refused(lastText()) }
    }
    // Who names a URI on the command line may name the files with its keys in it.
    guard unsafe nbd_set_uri_allow_local_file(handle, true) == 0 else { throw .refused(lastText()) }
    guard unsafe nbd_aio_connect_uri(handle, uri) == 0 else { throw .lost(lastText()) }
    try negotiate(within: limitNanoseconds)
  }

  /// Connects over `socket`, a connected one that is taken over; `name` is for messages.
  init(
    adopting socket: Int32, name: String, within limitNanoseconds: UInt64, stop: StopSignal
  ) throws(Failure) {
    uri = name
    self.stop = stop
    unsafe handle = nbd_create()
    guard let handle = unsafe handle else { throw .lost(lastText()) }
    guard unsafe nbd_aio_connect_socket(handle, socket) == 0 else { throw .lost(lastText()) }
    try negotiate(within: limitNanoseconds)
  }

  private func negotiate(within limitNanoseconds: UInt64) throws(Failure) {
    let deadline = MonotonicClock.nanoseconds() + limitNanoseconds
    while unsafe nbd_aio_is_ready(handle) != 1 {
      guard unsafe nbd_aio_is_dead(handle) != 1, unsafe nbd_aio_is_closed(handle) != 1 else {
        throw .lost(lastText())
      }
      try turn(until: deadline)
    }
  }

  deinit { close() }

  /// Says goodbye if it can, and ends the connection. No memory of an unfinished command is touched afterwards.
  func close() {
    guard let handle = unsafe handle else { return }
    if unsafe nbd_aio_is_ready(handle) == 1 { _ = unsafe nbd_aio_disconnect(handle, 0) }
    unsafe nbd_close(handle)
    unsafe self.handle = nil
  }

  /// Bytes of the export.
  func byteCount() throws(Failure) -> UInt64 {
    let size = unsafe nbd_get_size(handle)
    guard size >= 0 else { throw .lost(lastText()) }
    return UInt64(size)
  }

  /// Whether several connections see one and the same disk: the export says so, or nobody can write to it.
  func takesSeveralConnections() -> Bool {
    unsafe nbd_can_multi_conn(handle) == 1 || nbd_is_read_only(handle) == 1
  }

  /// What the export says about the sizes of requests, with the protocol's defaults where it says nothing.
  func blockSizes() -> BlockSizes {
    BlockSizes(
      minimum: unsafe nbd_get_block_size(handle, Int32(LIBNBD_SIZE_MINIMUM)),
      maximum: unsafe nbd_get_block_size(handle, Int32(LIBNBD_SIZE_MAXIMUM)))
  }

  /// Whether the server agreed to serve the meta context `name`.
  func hasContext(_ name: String) -> Bool { unsafe nbd_can_meta_context(handle, name) == 1 }

  /// Fills `target` from `offset`. Blocks.
  func read(at offset: UInt64, into target: inout MutableRawSpan) throws(Failure) {
    // SAFETY: the span's memory is pinned until this returns, and by then the command is finished or its handle closed.
    try unsafe target.withUnsafeMutableBytes { (memory) throws(Failure) in
      guard let base = memory.baseAddress else { return }
      let cookie = unsafe nbd_aio_pread(handle, base, memory.count, offset, noCompletion(), 0)
      try finish(cookie)
    }
  }

  /// The extents of `context` from `offset` on, at most `byteCount` bytes of them, as (length, flags). Blocks.
  func extents(
    of context: String, at offset: UInt64, byteCount: UInt64
  ) throws(Failure) -> [(byteCount: UInt64, flags: UInt32)] {
    let collector = ExtentCollector(context: context)
    // SAFETY: libnbd owns one reference to the collector, from here to its call of `free`, whatever happens.
    let callback = unsafe nbd_extent_callback(
      callback: { raw, name, _, entries, count, _ in
        guard let raw = unsafe raw, let name = unsafe name, let entries = unsafe entries else { return 0 }
        unsafe Unmanaged<ExtentCollector>.fromOpaque(raw).takeUnretainedValue()
          .add(String(cString: name), UnsafeBufferPointer(start: entries, count: count))
        return 0
      },
      user_data: Unmanaged.passRetained(collector).toOpaque(),
      free: { raw in
        guard let raw = unsafe raw else { return }
        unsafe Unmanaged<ExtentCollector>.fromOpaque(raw).release()
      })
    let cookie = unsafe nbd_aio_block_status(handle, byteCount, offset, callback, noCompletion(), 0)
    try finish(cookie)
    return collector.extents
  }

  /// Waits for the command `cookie` and takes its result.
  func finish(_ cookie: Int64) throws(Failure) {
    guard cookie >= 0 else { throw failure() }
    while true {
      let done = unsafe nbd_aio_command_completed(handle, UInt64(cookie))
      if done > 0 { return }
      if done < 0 { throw failure() }
      do throws(Failure) {
        try turn(until: nil)
      } catch {
        // The command may still be on its way to memory that its caller is about to take back.
        close()
        throw error
      }
    }
  }

  /// One step of the connection's own machine: waits until the socket, the signal or the deadline lets it go on.
  private func turn(until deadline: UInt64?) throws(Failure) {
    let direction = unsafe nbd_aio_get_direction(handle)
    let wantsRead = direction & UInt32(LIBNBD_AIO_DIRECTION_READ) != 0
    let wantsWrite = direction & UInt32(LIBNBD_AIO_DIRECTION_WRITE) != 0
    var polled = [
      pollfd(
        fd: unsafe nbd_aio_get_fd(handle),
        events: Int16(wantsRead ? POLLIN : 0) | Int16(wantsWrite ? POLLOUT : 0), revents: 0),
      pollfd(fd: stop.descriptor, events: Int16(POLLIN), revents: 0),
    ]
    var patience: Int32 = -1
    if let deadline {
      let now = MonotonicClock.nanoseconds()
      guard now < deadline else { throw .lost("it does not answer") }
      patience = Int32(clamping: (deadline - now) / 1_000_000 + 1)
    }
    // SAFETY: the array has the two entries that poll is told of.
    let ready = unsafe poll(&polled, 2, patience)
    guard ready >= 0 || errno == EINTR else { throw .lost("poll failed: \(SystemError.text(errno))") }
    guard ready > 0 else { return }
    guard polled[1].revents == 0 else { throw .stopped }
    // Errors and hang-ups are left for the socket call to find: only it says which one it was.
    let happened = Int32(polled[0].revents)
    var result: Int32 = 0
    if wantsRead, happened & (POLLIN | POLLHUP | POLLERR) != 0 {
      result = unsafe nbd_aio_notify_read(handle)
    } else if wantsWrite, happened & (POLLOUT | POLLHUP | POLLERR) != 0 {
      result = unsafe nbd_aio_notify_write(handle)
    } else {
      throw .lost("its socket is broken")
    }
    guard result == 0 else { throw failure() }
  }

  /// What the last call of this thread failed with, as it left the handle.
  func failure() -> Failure {
    let text = lastText()
    let isGone = unsafe nbd_aio_is_dead(handle) == 1 || nbd_aio_is_closed(handle) == 1
    return isGone ? .lost(text) : .refused(text)
  }
}

/// libnbd's words for the last failure of this thread, without the name of the call, which tells readers nothing.
private func lastText() -> String {
  // SAFETY: the text belongs to this thread and lives until its next call of libnbd.
  guard let words = unsafe nbd_get_error() else { return "it gives no reason" }
  let text = unsafe String(cString: words)
  guard text.hasPrefix("nbd_"), let end = text.firstRange(of: ": ") else { return text }
  return String(text[end.upperBound...])
}

/// NBD_NULL_COMPLETION, a macro that Swift does not see.
func noCompletion() -> nbd_completion_callback {
  unsafe nbd_completion_callback(callback: nil, user_data: nil, free: nil)
}

/// What a block status command brings, piece by piece.
private final class ExtentCollector {
  private(set) var extents: [(byteCount: UInt64, flags: UInt32)] = []
  private let context: String

  init(context: String) { self.context = context }

  /// Takes the pairs of length and flags that came for the context `name`.
  func add(_ name: String, _ entries: UnsafeBufferPointer<UInt32>) {
    guard name == context else { return }
    for index in stride(from: 0, to: entries.count - 1, by: 2) {
      extents.append((UInt64(unsafe entries[index]), unsafe entries[index + 1]))
    }
  }
}
