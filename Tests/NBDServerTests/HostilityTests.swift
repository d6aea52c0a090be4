import Foundation
import Glibc
import NBDProtocol
import NBDServer
import Testing
import Threads

// Goal: clients that are many, slow, broken or malicious cost a bounded amount, and nobody else notices them.
// Method: bare sockets. What is measured is memory and counts, never time.

@Suite("Hostile clients")
struct HostilityTests {
  @Test("a thousand idle connections cost 32 KiB each at most, and the next client is served as ever")
  func idleConnections() async {
    // In a process of its own, where nothing else takes memory.
    await #expect(processExitsWith: .success) {
      var many = rlimit(rlim_cur: 4096, rlim_max: 4096)
      setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &many)
      let bench = try Bench(MemoryDisk())
      let first = try bench.readyClient()
      first.read(cookie: 1, 0, 4096)
      _ = try first.simple(data: 4096)
      let before = try anonymousMemory()
      var clients: [RawClient] = []
      for _ in 0..<1000 { clients.append(try bench.readyClient()) }
      for client in clients {
        client.write(cookie: 1, 0, [1])
        _ = try client.simple()
      }
      let each = (try anonymousMemory() - before) / 1000
      guard each <= 32 << 10 else { fatalError("\(each) bytes each") }
      guard bench.server.counts.connectionsOpen == 1001 else { fatalError("not open") }
      first.flush(cookie: 2)
      _ = try first.simple()
      clients = []
      while bench.server.counts.connectionsOpen != 1 { sched_yield() }
      bench.close()
    }
  }

  @Test("an idle connection behind TLS costs at most 96 KiB, most of it GnuTLS's session")
  func idleTLSConnections() async {
    await #expect(processExitsWith: .success) {
      let files = try Certificates.shared.get()
      let credentials = try TLSCredentials(certificates: files.directory, verifyingPeer: false)
      let disk = MemoryDisk()
      let bench = try Bench(disk) { $0.tls = TLSSettings(policy: .require, credentials: credentials) }
      let uri = "nbds+unix:///disk?socket=\(bench.path)&tls-certificates=\(files.directory)"
      let script = """
        def connect(handle, offset):
            handle.set_uri_allow_local_file(True); handle.connect_uri("\(uri)")
            handle.pwrite(b"1", offset); return handle
        connect(h, 1); h.pread(1, 512)
        many = [connect(nbd.NBD(), 2) for n in range(200)]
        h.pread(1, 1024)
        """
      disk.holdRead(512)
      let client = WorkerThread(name: "client") { _ = try? Client.run("nbdsh", "-c", script) }
      guard disk.wait(for: "applied 1") else { fatalError("no client") }
      let before = try anonymousMemory()
      disk.holdRead(1024)
      disk.note("go on")
      guard disk.wait(for: "applied 2", count: 200) else { fatalError("not all connected") }
      let each = (try anonymousMemory() - before) / 200
      guard each <= 96 << 10 else { fatalError("\(each) bytes each") }
      disk.releaseRead()
      client?.join()
      bench.close()
    }
  }

  @Test("a thousand half-open handshakes are dropped by the time limit, and meanwhile others are let in")
  func halfOpen() async {
    await #expect(processExitsWith: .success) {
      var many = rlimit(rlim_cur: 4096, rlim_max: 4096)
      setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &many)
      let bench = try Bench(MemoryDisk()) { $0.handshakeNanoseconds = 2_000_000_000 }
      let stream: [UInt8] = [0, 0, 0, 3] + Array("IHAVEOPT".utf8) + [0, 0, 0, 7, 0, 0, 0x7f, 0xff, 1, 2, 3]
      let clients = try (0..<1000).map { index in
        let client = try bench.client()
        client.send(Array(stream.prefix(index % stream.count)))
        return client
      }
      let ready = try bench.readyClient()
      for client in clients {
        _ = try client.receive(18)
        guard client.isAtEnd() else { fatalError("not dropped") }
      }
      ready.flush(cookie: 1)
      _ = try ready.simple()
      while bench.server.counts.connectionsOpen != 1 { sched_yield() }
      bench.close()
    }
  }

  @Test("a flood of connections beyond the limit leaves counts right and those who are in undisturbed")
  func flood() throws {
    let disk = MemoryDisk()
    let bench = try Bench(disk) { $0.connectionsMax = 8 }
    defer { bench.close() }
    let ready = try bench.readyClient()
    let path = bench.path
    let flooders = (0..<4).map { number in
      WorkerThread(name: "flood-\(number)") {
        for turn in 0..<200 {
          guard let client = try? RawClient(unix: path) else { continue }
          // Some say nothing, some begin, some get all the way if there is room for them.
          if turn % 3 == 1 { client.send([0, 0, 0, 3]) }
          if turn % 3 == 2 { try? client.go() }
          client.hangUp()
        }
      }
    }
    for turn in 0..<200 {
      ready.write(cookie: UInt64(turn), 0, [UInt8(turn)])
      #expect(try ready.simple().cookie == UInt64(turn))
    }
    for flooder in flooders { flooder?.join() }
    while bench.server.counts.connectionsOpen != 1 { sched_yield() }
    for _ in 0..<7 { _ = try bench.readyClient() }
    #expect(disk.content[0] == 199)
  }

  @Test("a length is no reason to allocate: clients that announce much and send nothing cost nothing")
  func announcements() async {
    await #expect(processExitsWith: .success) {
      let bench = try Bench(MemoryDisk(byteCount: 1 << 20))
      let before = try anonymousMemory()
      var clients: [RawClient] = []
      for code in [3, 6, 7, 9, 10, 99] as [UInt8] {
        for _ in 0..<20 {
          let client = try bench.client()
          client.send([0, 0, 0, 3] + Array("IHAVEOPT".utf8) + [0, 0, 0, code, 0x02, 0, 0, 0])
          _ = try client.receive(18)
          clients.append(client)
        }
      }
      // A name of 4 GiB and 4 billion queries inside of an option that is there in full.
      for data in [[255, 255, 255, 255], [0, 0, 0, 0, 255, 255, 255, 255]] as [[UInt8]] {
        let client = try bench.client()
        client.send(
          [0, 0, 0, 3] + Array("IHAVEOPT".utf8) + [0, 0, 0, 9, 0, 0, 0, UInt8(data.count)] + data)
        _ = try client.receive(18)
        _ = try client.receive(20)
        clients.append(client)
      }
      let grown = try anonymousMemory() - before
      guard grown < clients.count * (64 << 10) else { fatalError("\(grown) bytes") }
      bench.close()
    }
  }

  @Test("a client that asks for more than it takes is not read further than the memory for answers goes")
  func backPressure() throws {
    let disk = MemoryDisk(byteCount: 32 << 20)
    let bench = try Bench(disk)
    defer { bench.close() }
    let greedy = try bench.readyClient()
    for cookie in 0..<20 as Range<UInt64> { greedy.read(cookie: cookie, 0, 32 << 20) }
    while !disk.log.contains("read 0") { sched_yield() }
    // Others are served meanwhile; when they need the memory the greedy one goes.
    let other = try bench.readyClient()
    for cookie in 0..<3 as Range<UInt64> {
      other.read(cookie: cookie, 0, 32 << 20)
      #expect(try other.simple(data: 32 << 20).cookie == cookie)
    }
    #expect(disk.log.count { $0 == "read 0" } < 20)
  }

  @Test(
    "reads that are parked or inside the export when their client resets are dropped, and the server goes on")
  func reset() throws {
    let disk = MemoryDisk()
    let bench = try Bench(disk)
    defer { bench.close() }
    disk.withhold(0..<8)
    disk.makeSlow(16..<24)
    for turn in 1...20 {
      let client = try bench.readyClient(structured: true)
      client.read(cookie: 1, 0, 512)
      client.read(cookie: 2, 8192, 512)
      client.read(cookie: 3, 65536, 65536)
      #expect(disk.wait(for: "park", count: turn))
      if turn == 1 { #expect(disk.wait(for: "source 8192")) }
      var now = linger(l_onoff: 1, l_linger: 0)
      setsockopt(client.descriptor, SOL_SOCKET, SO_LINGER, &now, socklen_t(MemoryLayout<linger>.size))
      client.hangUp()
      disk.openSource()
    }
    disk.arrive(0..<8)
    #expect(disk.wait(for: "close false", count: 20))
    #expect(bench.server.counts.readsParked == 0)
    let next = try bench.readyClient()
    next.read(cookie: 9, 0, 4096)
    #expect(try next.simple(data: 4096).cookie == 9)
  }
}

/// Anonymous memory of this process, in bytes.
private func anonymousMemory() throws -> Int {
  let status = try String(contentsOfFile: "/proc/self/status", encoding: .utf8)
  let line = status.split(separator: "\n").first { $0.hasPrefix("RssAnon:") }!
  return Int(line.filter(\.isNumber))! * 1024
}
