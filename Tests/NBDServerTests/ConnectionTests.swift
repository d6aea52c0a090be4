import Bytes
import Foundation
import Glibc
import NBDProtocol
import NBDServer
import Testing
import Threads

// Goal: listeners, limits and the rule that a returned client's old writes never follow its new ones.
// Method: real sockets, bare clients.

/// How often a thread of this process has waited. Takes no descriptor once it is made.
private struct ThreadWaits {
  private let status: Int32

  /// Of the thread of that name, which takes it when it begins to run.
  init(_ name: String) throws {
    var task: String?
    while task == nil {
      task = try FileManager.default.contentsOfDirectory(atPath: "/proc/self/task").first {
        (try? String(contentsOfFile: "/proc/self/task/\($0)/comm", encoding: .utf8)) == name + "\n"
      }
    }
    status = open("/proc/self/task/\(task ?? "")/status", O_RDONLY)
  }

  var waits: Int {
    var bytes = [UInt8](repeating: 0, count: 8192)
    let count = pread(status, &bytes, bytes.count, 0)
    let line = String(decoding: bytes.prefix(max(0, count)), as: UTF8.self).split(separator: "\n")
      .first { $0.hasPrefix("voluntary") }
    return Int(line?.filter(\.isNumber) ?? "") ?? 0
  }
}

@Suite("Connections and listeners")
struct ConnectionTests {
  @Test("a client that comes back is let in only when its dead connection can change nothing more")
  func retire() throws {
    let disk = MemoryDisk()
    let bench = try Bench(disk)
    defer { bench.close() }
    disk.hold(0)
    let old = try bench.readyClient()
    old.write(cookie: 1, 0, [1])
    #expect(disk.wait(for: "commit 0"))
    // Queued in the socket behind the write that is being committed: must never be applied.
    old.write(cookie: 2, 8, [1])
    old.send(RawClient.request(6, cookie: 3, offset: 16, length: 8))
    // Half closed and not closed: the reply to the first write still goes out, so that the reader goes on to
    // the queued ones and only the gate is in their way.
    old.halfClose()
    let new = try bench.client()
    new.sendGo()
    #expect(bench.wait(forLog: "retired"))
    #expect(disk.log.count { $0 == "open" } == 1, "not let in while the old write is being committed")
    disk.release()
    try new.finishGo()
    new.write(cookie: 4, 0, [2])
    #expect(try new.simple().cookie == 4)
    #expect(disk.wait(for: "close false"))
    let log = disk.log
    #expect(
      log.firstIndex(of: "applied 0")! < log.lastIndex(of: "open")!, "the call in progress was waited for")
    #expect(log.contains("abandon 8") && !log.contains("commit 8") && !log.contains("zero 16"))
    #expect(disk.content[0] == 2)
  }

  @Test("a connection whose client is still there is not retired")
  func notRetired() throws {
    let disk = MemoryDisk()
    let bench = try Bench(disk)
    defer { bench.close() }
    let first = try bench.readyClient()
    let second = try bench.readyClient()
    for client in [first, second, first] {
      client.write(cookie: 1, 0, [1])
      #expect(try client.simple() == .init(cookie: 1))
    }
  }

  @Test("one connection too many is closed, and there is room again when one ends")
  func connectionLimit() throws {
    let bench = try Bench(MemoryDisk()) { $0.connectionsMax = 2 }
    defer { bench.close() }
    let first = try bench.readyClient()
    let second = try bench.readyClient()
    #expect(try bench.client().isAtEnd())
    #expect(bench.server.counts.connectionsOpen == 2)
    first.hangUp()
    while bench.server.counts.connectionsOpen == 2 { sched_yield() }
    _ = try bench.readyClient()
    second.flush(cookie: 1)
    #expect(try second.simple().cookie == 1)
  }

  @Test("a negotiation that does not get on is ended, and keeps nobody waiting")
  func handshakeTimeout() throws {
    let bench = try Bench(MemoryDisk()) { $0.handshakeNanoseconds = 300_000_000 }
    defer { bench.close() }
    let silent = try bench.client()
    _ = try silent.receive(18)
    let halfWay = try bench.client()
    halfWay.send([0, 0, 0, 3] + Array("IHAVE".utf8))
    let ready = try bench.readyClient()
    #expect(silent.isAtEnd())
    _ = try halfWay.receive(18)
    #expect(halfWay.isAtEnd())
    ready.flush(cookie: 1)
    #expect(try ready.simple().cookie == 1, "the deadline ends with the negotiation")
  }

  @Test("the socket file is the owner's alone; a stale one is taken over, a live one or another file is not")
  func unixSockets() throws {
    let disk = MemoryDisk()
    let bench = try Bench(disk)
    defer { bench.close() }
    var status = stat()
    #expect(lstat(bench.path, &status) == 0 && status.st_mode & 0o777 == 0o600)
    let second = Server { _, _ in }
    #expect(throws: ServerError.self) { try second.listen(on: .unix(path: bench.path), directory: disk) }
    _ = try bench.readyClient()

    let directory = Bench.temporaryDirectory()
    let stale = directory + "/stale"
    // A socket that was bound and closed without unlinking, as a killed server leaves it.
    let dead = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: stale.utf8) }
    withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        _ = bind(dead, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
    close(dead)
    _ = try second.listen(on: .unix(path: stale), directory: disk)
    try RawClient(unix: stale).go()

    let file = directory + "/file"
    close(creat(file, 0o600))
    #expect(throws: ServerError.self) { try second.listen(on: .unix(path: file), directory: disk) }
    #expect(access(file, F_OK) == 0, "a file that is no socket is left alone")
    let long = directory + "/" + String(repeating: "x", count: 200)
    #expect(throws: ServerError.self) { try second.listen(on: .unix(path: long), directory: disk) }
    second.stop()
    #expect(access(stale, F_OK) != 0)
    unlink(file)
    rmdir(directory)
  }

  @Test("when no descriptor is left clients wait, and are let in once there is one")
  func descriptorsExhausted() async {
    // In a process of its own: it takes every descriptor there is.
    await #expect(processExitsWith: .success) {
      let bench = try Bench(MemoryDisk())
      let accepting = try ThreadWaits("nbd-accept")
      var few = rlimit(rlim_cur: 64, rlim_max: 64)
      setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &few)
      var taken: [Int32] = []
      while case let descriptor = dup(0), descriptor >= 0 { taken.append(descriptor) }
      close(taken.removeLast())
      let client = try bench.client()
      #expect(bench.wait(forLog: "accept: "))
      // Each attempt ends in a wait of the thread, and the first alone is worth a line.
      let before = accepting.waits
      while accepting.waits < before + 3 { sched_yield() }
      guard bench.logCount(of: "accept: ") == 1 else { fatalError("it is said again and again") }
      for descriptor in taken { close(descriptor) }
      try client.go()
      bench.close()
    }
  }

  @Test("of a TCP client replies are sent at once, and its death is noticed")
  func socketOptions() throws {
    let bench = try Bench(MemoryDisk())
    defer { bench.close() }
    let address = try bench.server.listen(on: .tcp(host: "127.0.0.1", port: 0), directory: MemoryDisk())
    guard case .tcp(_, let port) = address else { return }
    let client = try RawClient(tcp: port)
    try client.go()
    // The server is in this process: its end is the socket whose peer is the client.
    let own = try #require(Self.ports(of: client.descriptor)?.own)
    let server = try #require((0..<1 << 16).first { Self.ports(of: $0)?.peer == own })
    func option(_ level: Int32, _ option: Int32) -> Int32 {
      var (value, length) = (Int32(0), socklen_t(4))
      return getsockopt(server, level, option, &value, &length) == 0 ? value : -1
    }
    #expect(option(Int32(IPPROTO_TCP), TCP_NODELAY) == 1)
    #expect(option(SOL_SOCKET, SO_KEEPALIVE) == 1)
    #expect(option(Int32(IPPROTO_TCP), TCP_KEEPIDLE) == 60 && option(Int32(IPPROTO_TCP), TCP_KEEPINTVL) == 10)
  }

  /// The ports at both ends of an IPv4 socket.
  private static func ports(of descriptor: Int32) -> (own: UInt16, peer: UInt16)? {
    func port(_ call: (Int32, UnsafeMutablePointer<sockaddr>, UnsafeMutablePointer<socklen_t>) -> Int32)
      -> UInt16?
    {
      var (address, length) = (sockaddr_in(), socklen_t(MemoryLayout<sockaddr_in>.size))
      let code = withUnsafeMutablePointer(to: &address) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { call(descriptor, $0, &length) }
      }
      return code == 0 && address.sin_family == sa_family_t(AF_INET)
        ? UInt16(bigEndian: address.sin_port) : nil
    }
    guard let own = port(getsockname), let peer = port(getpeername) else { return nil }
    return (own, peer)
  }

  @Test("listeners of one server may show different exports")
  func directories() throws {
    let bench = try Bench(MemoryDisk())
    defer { bench.close() }
    let directory = Bench.temporaryDirectory()
    let path = directory + "/view"
    _ = try bench.server.listen(on: .unix(path: path), directory: MemoryDisk(name: "view", isReadOnly: true))
    try RawClient(unix: path).go("view")
    #expect(throws: RawClient.Failure.self) { try RawClient(unix: path).go("disk") }
    #expect(throws: RawClient.Failure.self) { try bench.client().go("view") }
    bench.server.stop()
    rmdir(directory)
  }

  @Test("addresses print as users write them")
  func addresses() {
    #expect(ListenAddress.unix(path: "/a").description == "unix:/a")
    #expect(ListenAddress.tcp(host: "h", port: 1).description == "tcp:h:1")
    #expect(ListenAddress.tcp(host: "::1", port: 5).description == "tcp:[::1]:5")
  }
}
