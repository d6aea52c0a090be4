internal import Bytes
internal import Glibc

/// The bound sockets of one address. Closes them, and removes its socket file, when it goes.
struct ListeningSockets: ~Copyable {
  // SAFETY: what a system call is given by address lives until it returns; of texts none keeps a pointer.
  /// The address with the port that was given.
  let address: ListenAddress
  /// One descriptor for each address that the host has.
  let descriptors: [Int32]
  /// The identity of the socket file, so that a successor's is not removed.
  private let file: FileIdentity?

  private struct FileIdentity: Equatable {
    let device: UInt64
    let inode: UInt64
  }

  private static let backlog: Int32 = 1024

  init(_ address: ListenAddress) throws(ServerError) {
    switch address {
    case .unix(let path):
      descriptors = [try Self.listen(path: path)]
      file = Self.identity(path)
      self.address = address
    case .tcp(let host, let port):
      let (descriptors, bound) = try Self.listen(host: host, port: port)
      self.descriptors = descriptors
      file = nil
      self.address = .tcp(host: host, port: bound)
    case .vsock(let context, let port):
      descriptors = [try Self.listen(context: context, port: port)]
      file = nil
      self.address = address
    }
  }

  /// A socket at `address` that somebody else has bound and keeps: its file is not ours to remove. Takes over
  /// `descriptor`.
  init(inheriting descriptor: Int32, as address: ListenAddress) {
    descriptors = [descriptor]
    // A client that is gone between poll and accept must not make us wait for the next one.
    let status = fcntl(descriptor, F_GETFL)
    if status >= 0 { _ = fcntl(descriptor, F_SETFL, status | O_NONBLOCK) }
    file = nil
    self.address = address
  }

  deinit {
    for descriptor in descriptors { close(descriptor) }
    if case .unix(let path) = address, let file, Self.identity(path) == file { _ = unsafe unlink(path) }
  }

  // MARK: - Unix

  private static func listen(path: String) throws(ServerError) -> Int32 {
    let name = "unix:\(path)"
    let descriptor = try open(AF_UNIX, name)
    do throws(ServerError) {
      // On Linux the file gets the mode of the socket: it is never open to others, not even for an instant.
      fchmod(descriptor, 0o600)
      var code = try bind(descriptor, path: path)
      if code == EADDRINUSE {
        try removeStale(path)
        code = try bind(descriptor, path: path)
      }
      if code != 0 { throw ServerError("\(name): \(SystemError.text(code))") }
      try startListening(descriptor, name)
      return descriptor
    } catch {
      close(descriptor)
      throw error
    }
  }

  /// Removes the socket file of a server that is no more. Anything else in its place is an error.
  private static func removeStale(_ path: String) throws(ServerError) {
    var status = stat()
    guard unsafe lstat(path, &status) == 0 else { return }
    guard status.st_mode & S_IFMT == S_IFSOCK else {
      throw ServerError("unix:\(path): there is a file of this name that is no socket")
    }
    let probe = try open(AF_UNIX, "unix:\(path)")
    defer { close(probe) }
    let code = unsafe try withAddress(path) { (address, length) in
      unsafe connect(probe, address, length) == 0 ? 0 : errno
    }
    switch code {
    case ECONNREFUSED: _ = unsafe unlink(path)
    case ENOENT: return
    case 0: throw ServerError("unix:\(path): another server is listening there")
    default: throw ServerError("unix:\(path): in use: \(SystemError.text(code))")
    }
  }

  private static func bind(_ descriptor: Int32, path: String) throws(ServerError) -> Int32 {
    unsafe try withAddress(path) { (address, length) in
      unsafe Glibc.bind(descriptor, address, length) == 0 ? 0 : errno
    }
  }

  private static func withAddress(
    _ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32
  ) throws(ServerError) -> Int32 {
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    let bytes = Array(path.utf8)
    let room = MemoryLayout.size(ofValue: address.sun_path)
    guard bytes.count < room else {
      throw ServerError("unix:\(path): a socket's path has at most \(room - 1) bytes")
    }
    unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: bytes) }
    // SAFETY: every sockaddr_* may be seen as a sockaddr, and the length says how long it is.
    return unsafe withUnsafePointer(to: &address) { pointer in
      unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        unsafe body($0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
  }

  private static func identity(_ path: String) -> FileIdentity? {
    var status = stat()
    guard unsafe lstat(path, &status) == 0 else { return nil }
    return FileIdentity(device: UInt64(status.st_dev), inode: UInt64(status.st_ino))
  }

  // MARK: - TCP

  /// Binds every address of `host`. The first one chooses the port when it is 0.
  private static func listen(host: String, port: UInt16) throws(ServerError) -> ([Int32], UInt16) {
    let name = ListenAddress.tcp(host: host, port: port).description
    var hints = unsafe addrinfo()
    unsafe hints.ai_flags = AI_PASSIVE
    unsafe hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
    var found: UnsafeMutablePointer<addrinfo>?
    let code =
      host.isEmpty
      ? unsafe getaddrinfo(nil, String(port), &hints, &found)
      : unsafe getaddrinfo(host, String(port), &hints, &found)
    guard code == 0 else { throw ServerError("\(name): \(unsafe String(cString: gai_strerror(code)))") }
    // SAFETY: the list is ours from getaddrinfo to freeaddrinfo.
    defer { unsafe freeaddrinfo(found) }
    var descriptors: [Int32] = []
    var port = port
    do throws(ServerError) {
      var next = unsafe found
      while let entry = unsafe next {
        try descriptors.append(unsafe listen(entry.pointee, &port, name))
        unsafe next = entry.pointee.ai_next
      }
    } catch {
      for descriptor in descriptors { close(descriptor) }
      throw error
    }
    return (descriptors, port)
  }

  private static func listen(
    _ entry: addrinfo, _ port: inout UInt16, _ name: String
  ) throws(ServerError) -> Int32 {
    let descriptor = try open(unsafe entry.ai_family, name)
    do throws(ServerError) {
      setOption(descriptor, SOL_SOCKET, SO_REUSEADDR, 1)
      if unsafe entry.ai_family == AF_INET6 { setOption(descriptor, Int32(IPPROTO_IPV6), IPV6_V6ONLY, 1) }
      var storage = sockaddr_storage()
      var length = unsafe entry.ai_addrlen
      // SAFETY: a sockaddr_storage holds any address; getaddrinfo's is `length` bytes long. Both families
      // keep the port at the same place, in the second two bytes.
      let code = unsafe withUnsafeMutableBytes(of: &storage) { bytes -> Int32 in
        unsafe bytes.copyMemory(from: UnsafeRawBufferPointer(start: entry.ai_addr, count: Int(length)))
        unsafe bytes.storeBytes(of: port.bigEndian, toByteOffset: 2, as: UInt16.self)
        let address = unsafe bytes.assumingMemoryBound(to: sockaddr.self).baseAddress!
        if unsafe Glibc.bind(descriptor, address, length) != 0 { return errno }
        if unsafe getsockname(descriptor, address, &length) != 0 { return errno }
        port = unsafe UInt16(bigEndian: bytes.load(fromByteOffset: 2, as: UInt16.self))
        return 0
      }
      if code != 0 { throw ServerError("\(name): \(SystemError.text(code))") }
      try startListening(descriptor, name)
      return descriptor
    } catch {
      close(descriptor)
      throw error
    }
  }

  /// What an accepted TCP connection needs: small replies at once, and dead peers noticed.
  static func prepareAccepted(_ descriptor: Int32) {
    // On a unix socket these fail, and nothing is missing there.
    setOption(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, 1)
    setOption(descriptor, SOL_SOCKET, SO_KEEPALIVE, 1)
    setOption(descriptor, Int32(IPPROTO_TCP), TCP_KEEPIDLE, 60)
    setOption(descriptor, Int32(IPPROTO_TCP), TCP_KEEPINTVL, 10)
  }

  // MARK: - Vsock

  private static func listen(context: UInt32, port: UInt32) throws(ServerError) -> Int32 {
    let name = ListenAddress.vsock(context: context, port: port).description
    let descriptor = try open(ListenAddress.vsockFamily, name)
    do throws(ServerError) {
      var storage = sockaddr_storage()
      // SAFETY: a sockaddr_vm is 16 bytes of the storage; its fields lie where ListenAddress says.
      let code = unsafe withUnsafeMutableBytes(of: &storage) { bytes -> Int32 in
        unsafe bytes.storeBytes(of: UInt16(ListenAddress.vsockFamily), as: UInt16.self)
        unsafe bytes.storeBytes(of: port, toByteOffset: 4, as: UInt32.self)
        unsafe bytes.storeBytes(of: context, toByteOffset: 8, as: UInt32.self)
        let address = unsafe bytes.assumingMemoryBound(to: sockaddr.self).baseAddress!
        return unsafe Glibc.bind(descriptor, address, 16) == 0 ? 0 : errno
      }
      if code != 0 { throw ServerError("\(name): \(SystemError.text(code))") }
      try startListening(descriptor, name)
      return descriptor
    } catch {
      close(descriptor)
      throw error
    }
  }

  // MARK: - All

  private static func open(_ family: Int32, _ name: String) throws(ServerError) -> Int32 {
    let type = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue)
    let descriptor = socket(family, type, 0)
    if descriptor < 0 { throw ServerError("\(name): socket: \(SystemError.text(errno))") }
    return descriptor
  }

  private static func startListening(_ descriptor: Int32, _ name: String) throws(ServerError) {
    if Glibc.listen(descriptor, backlog) != 0 {
      throw ServerError("\(name): listen: \(SystemError.text(errno))")
    }
  }

  private static func setOption(_ descriptor: Int32, _ level: Int32, _ option: Int32, _ value: Int32) {
    var value = value
    unsafe setsockopt(descriptor, level, option, &value, socklen_t(MemoryLayout<Int32>.size))
  }
}
