import Bytes
import Glibc

/// A client of bare sockets: it can do what no decent client does. Written from doc/proto.md. A receive gives
/// up after 20 seconds, so that a failing test ends.
final class RawClient {
  struct Failure: Error { let what: String }

  private(set) var descriptor: Int32

  init(unix path: String) throws {
    descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
    let code = withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
    try begin(code)
  }

  /// Over TCP to this machine's `port`, by IPv4.
  init(tcp port: UInt16) throws {
    descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
    let code = withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
      }
    }
    try begin(code)
  }

  private func begin(_ code: Int32) throws {
    var patience = timeval(tv_sec: 20, tv_usec: 0)
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
    if code != 0 { throw Failure(what: "connect: \(errno)") }
  }

  deinit { hangUp() }

  func hangUp() {
    if descriptor >= 0 { close(descriptor) }
    descriptor = -1
  }

  /// Sends no more, but still receives: what the server sees of a client behind a dead link may look like
  /// this.
  func halfClose() { shutdown(descriptor, Int32(SHUT_WR)) }

  func send(_ bytes: [UInt8]) {
    var sent = 0
    while sent < bytes.count {
      let count = bytes.withUnsafeBytes {
        Glibc.send(descriptor, $0.baseAddress! + sent, bytes.count - sent, Int32(MSG_NOSIGNAL))
      }
      if count <= 0 { return }
      sent += count
    }
  }

  /// Exactly `count` bytes.
  func receive(_ count: Int) throws -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    var filled = 0
    while filled < count {
      let got = bytes.withUnsafeMutableBytes { recv(descriptor, $0.baseAddress! + filled, count - filled, 0) }
      if got <= 0 { throw Failure(what: got == 0 ? "the server hung up" : "receive: \(errno)") }
      filled += got
    }
    return bytes
  }

  /// Whether the server ends the connection, without another byte.
  func isAtEnd() -> Bool {
    var byte: UInt8 = 0
    let got = recv(descriptor, &byte, 1, 0)
    return got == 0 || (got < 0 && errno == ECONNRESET)
  }

  // MARK: - NBD

  static func big<Value: FixedWidthInteger>(_ value: Value) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.appendBigEndian(value)
    return bytes
  }

  private static func option(_ code: UInt32, _ data: [UInt8] = []) -> [UInt8] {
    Array("IHAVEOPT".utf8) + big(code) + big(UInt32(data.count)) + data
  }

  private static func string(_ text: String) -> [UInt8] { big(UInt32(text.utf8.count)) + Array(text.utf8) }

  /// Negotiates `name`; throws when the server does not let it in.
  func go(_ name: String = "disk", structured: Bool = false) throws {
    sendGo(name, structured: structured)
    try finishGo(structured: structured)
  }

  func sendGo(_ name: String = "disk", structured: Bool = false) {
    var bytes = Self.big(3 as UInt32)
    if structured {
      bytes += Self.option(8)
      bytes += Self.option(10, Self.string(name) + Self.big(1 as UInt32) + Self.string("base:allocation"))
    }
    send(bytes + Self.option(7, Self.string(name) + [0, 0]))
  }

  func finishGo(structured: Bool = false) throws {
    _ = try receive(18)
    while true {
      let header = try receive(20)
      let (option, type) = (
        header.bigEndian(at: 8, as: UInt32.self)!, header.bigEndian(at: 12, as: UInt32.self)!
      )
      let data = try receive(Int(header.bigEndian(at: 16, as: UInt32.self)!))
      if type >> 31 == 1 { throw Failure(what: String(decoding: data, as: UTF8.self)) }
      if option == 7, type == 1 { return }
    }
  }

  static func request(
    _ type: UInt16, flags: UInt16 = 0, cookie: UInt64, offset: UInt64 = 0, length: Int = 0
  ) -> [UInt8] {
    big(0x2560_9513 as UInt32) + big(flags) + big(type) + big(cookie) + big(offset) + big(UInt32(length))
  }

  func read(cookie: UInt64, _ offset: UInt64, _ length: Int, flags: UInt16 = 0) {
    send(Self.request(0, flags: flags, cookie: cookie, offset: offset, length: length))
  }

  func write(cookie: UInt64, _ offset: UInt64, _ payload: [UInt8]) {
    send(Self.request(1, cookie: cookie, offset: offset, length: payload.count) + payload)
  }

  func flush(cookie: UInt64) { send(Self.request(3, cookie: cookie)) }
  func disconnect() { send(Self.request(2, cookie: 0)) }

  struct Simple: Equatable {
    var cookie: UInt64
    var error: UInt32 = 0
    var data: [UInt8] = []
  }

  /// A simple reply; `length` bytes of data follow one without error.
  func simple(data length: Int = 0) throws -> Simple {
    let header = try receive(16)
    guard header.bigEndian(at: 0) == 0x6744_6698 as UInt32 else { throw Failure(what: "no simple reply") }
    let error: UInt32 = header.bigEndian(at: 4)!
    return Simple(
      cookie: header.bigEndian(at: 8)!, error: error, data: error == 0 ? try receive(length) : [])
  }

  struct Chunk: Equatable {
    var cookie: UInt64
    var type: UInt16
    var isDone: Bool
    var content: [UInt8]
  }

  /// A structured reply chunk.
  func chunk() throws -> Chunk {
    let header = try receive(20)
    guard header.bigEndian(at: 0) == 0x668e_33ef as UInt32 else { throw Failure(what: "no chunk") }
    return Chunk(
      cookie: header.bigEndian(at: 8)!, type: header.bigEndian(at: 6)!, isDone: header[5] == 1,
      content: try receive(Int(header.bigEndian(at: 16, as: UInt32.self)!)))
  }
}
