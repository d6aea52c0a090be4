internal import Glibc

/// Where a server listens. It prints as users write it: `unix:PATH`, `tcp:HOST:PORT` or `vsock:CID:PORT`.
package enum ListenAddress: Sendable, Hashable, CustomStringConvertible {
  /// A socket file.
  case unix(path: String)
  /// A host name or address ("" is every interface) and a port (0 is any that is free).
  case tcp(host: String, port: UInt16)
  /// A virtual machine's socket: a context (`anyContext`: whichever this machine has) and a port.
  case vsock(context: UInt32, port: UInt32)

  /// Every context that this machine has.
  package static let anyContext = UInt32.max
  /// AF_VSOCK, which Glibc does not show. A sockaddr_vm has its port at byte 4 and its context at byte 8, and 16 bytes.
  static let vsockFamily: Int32 = 40

  /// The address as users write it, an IPv6 host in brackets: `tcp:[::1]:10809`.
  package var description: String {
    switch self {
    case .unix(let path): "unix:\(path)"
    case .tcp(let host, let port): host.contains(":") ? "tcp:[\(host)]:\(port)" : "tcp:\(host):\(port)"
    case .vsock(Self.anyContext, let port): "vsock:any:\(port)"
    case .vsock(let context, let port): "vsock:\(context):\(port)"
    }
  }

  /// The address of a stream socket that listens already.
  package init(listening descriptor: Int32) throws(ServerError) {
    var isListening: Int32 = 0
    var optionLength = socklen_t(MemoryLayout<Int32>.size)
    guard unsafe getsockopt(descriptor, SOL_SOCKET, SO_ACCEPTCONN, &isListening, &optionLength) == 0,
      isListening != 0
    else { throw ServerError("descriptor \(descriptor) is no socket that listens") }
    var storage = sockaddr_storage()
    var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
    // SAFETY: a sockaddr_storage holds any address, and the kernel writes at most `length` bytes.
    let found = unsafe withUnsafeMutableBytes(of: &storage) { bytes -> ListenAddress? in
      let address = unsafe bytes.assumingMemoryBound(to: sockaddr.self).baseAddress!
      guard unsafe getsockname(descriptor, address, &length) == 0 else { return nil }
      switch unsafe Int32(address.pointee.sa_family) {
      case AF_UNIX:
        let path = unsafe bytes[2..<max(2, min(Int(length), bytes.count))].prefix { $0 != 0 }
        return unsafe .unix(path: String(decoding: path, as: UTF8.self))
      case Self.vsockFamily:
        return unsafe .vsock(
          context: bytes.load(fromByteOffset: 8, as: UInt32.self),
          port: bytes.load(fromByteOffset: 4, as: UInt32.self))
      case AF_INET, AF_INET6:
        var host = [CChar](repeating: 0, count: Int(NI_MAXHOST))
        let code = unsafe getnameinfo(
          address, length, &host, socklen_t(host.count), nil, 0, NI_NUMERICHOST)
        guard code == 0 else { return nil }
        let text = String(decoding: host.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        // Both families keep the port at the same place.
        return unsafe .tcp(
          host: text, port: UInt16(bigEndian: bytes.load(fromByteOffset: 2, as: UInt16.self)))
      default: return nil
      }
    }
    guard let found else { throw ServerError("descriptor \(descriptor) has no address that clients know") }
    self = found
  }
}
