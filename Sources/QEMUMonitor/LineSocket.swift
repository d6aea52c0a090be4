internal import Glibc

// The only file here that touches memory by hand. Everything above it sees whole lines.

/// A connected unix stream socket that is read line by line and never blocks past a deadline, if there is one.
struct LineSocket: ~Copyable {
  typealias Instant = ContinuousClock.Instant

  /// A peer that sends more than this without a line end is not speaking our dialect.
  private static let lineBytesMax = 16 << 20

  private var descriptor: Int32
  private var buffer: [UInt8] = []
  /// How much of `buffer` is known to hold no line end, so that a long line is not searched again and again.
  private var searched = 0

  init(connectingTo path: String) throws(QMPError) {
    descriptor = try connectedSocket(path)
  }

  /// A socket that somebody else connected, which is closed with this.
  init(adopting descriptor: Int32) { self.descriptor = descriptor }

  deinit { if descriptor >= 0 { close(descriptor) } }

  /// Ends the connection. Later reads and writes say so.
  mutating func disconnect() {
    if descriptor >= 0 { close(descriptor) }
    descriptor = -1
    buffer = []
    searched = 0
  }

  /// The next line without its end, skipping empty ones. `awaited` names it in errors.
  mutating func readLine(until deadline: Instant?, awaited: String) throws(QMPError) -> [UInt8] {
    guard descriptor >= 0 else { throw .closed(awaited: awaited) }
    while true {
      if let line = takeLine() {
        if line.isEmpty { continue }
        return line
      }
      guard buffer.count < Self.lineBytesMax else { throw .malformed(line: "a line of over 16 MiB") }
      try wait(for: Int16(POLLIN), until: deadline, awaited: awaited)
      var chunk = [UInt8](repeating: 0, count: 64 << 10)
      // SAFETY: recv writes at most `count` bytes into the array it is lent.
      let received = unsafe chunk.withUnsafeMutableBytes { room in
        unsafe recv(descriptor, room.baseAddress, room.count, Int32(MSG_DONTWAIT))
      }
      if received > 0 {
        buffer.append(contentsOf: chunk[..<received])
      } else if received == 0 || errno == ECONNRESET {
        throw .closed(awaited: awaited)
      } else if errno != EINTR && errno != EAGAIN {
        throw .socketFailed(operation: "recv", errno: errno)
      }
    }
  }

  /// Sends all of `bytes`.
  func write(_ bytes: [UInt8], until deadline: Instant?, awaited: String) throws(QMPError) {
    guard descriptor >= 0 else { throw .closed(awaited: awaited) }
    var done = 0
    while done < bytes.count {
      // SAFETY: send reads at most what is left of the array it is lent.
      let sent = unsafe bytes.withUnsafeBytes { all in
        let rest = unsafe UnsafeRawBufferPointer(rebasing: all[done...])
        return unsafe send(
          descriptor, rest.baseAddress, rest.count,
          Int32(MSG_DONTWAIT) | Int32(MSG_NOSIGNAL))
      }
      if sent >= 0 {
        done += sent
      } else if errno == EAGAIN {
        try wait(for: Int16(POLLOUT), until: deadline, awaited: awaited)
      } else if errno == EPIPE || errno == ECONNRESET {
        throw .closed(awaited: awaited)
      } else if errno != EINTR {
        throw .socketFailed(operation: "send", errno: errno)
      }
    }
  }

  private mutating func takeLine() -> [UInt8]? {
    guard let end = buffer[searched...].firstIndex(of: UInt8(ascii: "\n")) else {
      searched = buffer.count
      return nil
    }
    var line = Array(buffer[..<end])
    if line.last == UInt8(ascii: "\r") { line.removeLast() }
    buffer.removeSubrange(...end)
    searched = 0
    return line
  }

  private func wait(for events: Int16, until deadline: Instant?, awaited: String) throws(QMPError) {
    while true {
      var patience: Int32 = -1
      if let deadline {
        let left = ContinuousClock.now.duration(to: deadline)
        guard left > .zero else { throw .timedOut(awaited: awaited) }
        // Rounded up, so that the last millisecond is not spun through.
        let milliseconds =
          left.components.seconds * 1000 + left.components.attoseconds / 1_000_000_000_000_000
        patience = Int32(min(milliseconds + 1, 3_600_000))
      }
      var request = pollfd(fd: descriptor, events: events, revents: 0)
      let ready = unsafe poll(&request, 1, patience)
      if ready > 0 { return }
      if ready < 0 && errno != EINTR { throw .socketFailed(operation: "poll", errno: errno) }
    }
  }
}

/// A stream socket connected to the unix socket at `path`, which the caller closes.
private func connectedSocket(_ path: String) throws(QMPError) -> Int32 {
  let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
  guard descriptor >= 0 else { throw .cannotConnect(path: path, errno: errno) }

  var address = sockaddr_un()
  address.sun_family = sa_family_t(AF_UNIX)
  let bytes = Array(path.utf8)
  let room = MemoryLayout.size(ofValue: address.sun_path)
  guard bytes.count < room else {
    close(descriptor)
    throw .cannotConnect(path: path, errno: ENAMETOOLONG)
  }
  // SAFETY: `address` outlives the call, and `bytes` was just checked to leave room for the final zero.
  unsafe withUnsafeMutableBytes(of: &address.sun_path) { target in
    unsafe target.copyBytes(from: bytes)
  }
  // SAFETY: a sockaddr_un is what connect takes for AF_UNIX, with its own size.
  let result = unsafe withUnsafePointer(to: &address) { pointer in
    unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { generic in
      unsafe connect(descriptor, generic, socklen_t(MemoryLayout<sockaddr_un>.size))
    }
  }
  guard result == 0 else {
    let why = errno
    close(descriptor)
    throw .cannotConnect(path: path, errno: why)
  }
  return descriptor
}
