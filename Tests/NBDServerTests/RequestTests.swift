import Glibc
import NBDProtocol
import NBDServer
import Testing

// Goal: requests on a real socket do to the export what they say, and get the reply they should.
// Method: an export in memory, a client of bare sockets.

@Suite("Requests over a socket")
struct RequestTests {
  @Test("a write is read back, by a simple reply with all its data")
  func simpleReplies() throws {
    let disk = MemoryDisk()
    let bench = try Bench(disk)
    defer { bench.close() }
    let client = try bench.readyClient()
    let data = (0..<3000).map { UInt8($0 & 255) }
    client.write(cookie: 1, 1001, data)
    #expect(try client.simple() == .init(cookie: 1))
    client.read(cookie: 2, 1001, 3000)
    #expect(try client.simple(data: 3000) == .init(cookie: 2, data: data))
    client.read(cookie: 3, 1 << 20, 1)
    #expect(try client.simple() == .init(cookie: 3, error: 22))
    client.write(cookie: 4, (1 << 20) - 1, [1, 2])
    #expect(try client.simple() == .init(cookie: 4, error: 28))
    client.flush(cookie: 5)
    #expect(try client.simple() == .init(cookie: 5))
  }

  @Test("requests of every size, sent in one stream, are each answered")
  func pipelined() throws {
    let disk = MemoryDisk(byteCount: 8 << 20)
    let bench = try Bench(disk)
    defer { bench.close() }
    let client = try bench.readyClient()
    let sizes = [1, 100, 65_508, 65_536, 65_537, 200_000, 1 << 20, 3, 500]
    var stream: [UInt8] = []
    var offset = 0
    for (index, size) in sizes.enumerated() {
      stream += RawClient.request(1, cookie: UInt64(index), offset: UInt64(offset), length: size)
      stream += [UInt8](repeating: UInt8(index + 1), count: size)
      offset += size
    }
    client.send(stream)
    for index in sizes.indices { #expect(try client.simple() == .init(cookie: UInt64(index))) }
    var expected: [UInt8] = []
    for (index, size) in sizes.enumerated() { expected += [UInt8](repeating: UInt8(index + 1), count: size) }
    #expect(Array(disk.content.prefix(expected.count)) == expected)
  }

  @Test("with structured replies a read comes in chunks, holes without data, and with DF in one")
  func structuredReplies() throws {
    let disk = MemoryDisk()
    let bench = try Bench(disk)
    defer { bench.close() }
    let client = try bench.readyClient(structured: true)
    client.write(cookie: 1, 512, [UInt8](repeating: 7, count: 512))
    #expect(try client.simple() == .init(cookie: 1))
    client.read(cookie: 2, 0, 2048)
    let sevens = [UInt8](repeating: 7, count: 512)
    #expect(
      try client.chunk()
        == .init(cookie: 2, type: 2, isDone: false, content: RawClient.big(0 as UInt64) + [0, 0, 2, 0]))
    #expect(
      try client.chunk()
        == .init(cookie: 2, type: 1, isDone: false, content: RawClient.big(512 as UInt64) + sevens))
    #expect(
      try client.chunk()
        == .init(cookie: 2, type: 2, isDone: true, content: RawClient.big(1024 as UInt64) + [0, 0, 4, 0]))
    let zeroes = [UInt8](repeating: 0, count: 512)
    client.read(cookie: 3, 0, 1536, flags: 4)
    #expect(
      try client.chunk()
        == .init(
          cookie: 3, type: 1, isDone: true, content: RawClient.big(0 as UInt64) + zeroes + sevens + zeroes))
    client.send(RawClient.request(7, cookie: 4, offset: 0, length: 2048))
    let extents: [UInt8] = [0, 0, 2, 0, 0, 0, 0, 3, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 3]
    #expect(try client.chunk() == .init(cookie: 4, type: 5, isDone: true, content: [0, 0, 0, 1] + extents))
    client.read(cookie: 5, 1 << 20, 1)
    let error = try client.chunk()
    #expect(error.type == 0x8001 && error.isDone && error.content.starts(with: [0, 0, 0, 22]))
    #expect(error.content.count > 6, "with a message")
  }

  @Test("data so patchy that chunks would not pay goes as one chunk")
  func patchy() throws {
    let disk = MemoryDisk()
    disk.content = (0..<1 << 20).map { ($0 / 512) % 2 == 0 ? 0 : 5 }
    let bench = try Bench(disk)
    defer { bench.close() }
    let client = try bench.readyClient(structured: true)
    client.read(cookie: 1, 0, 1 << 20)
    let chunk = try client.chunk()
    #expect(chunk.isDone && Array(chunk.content.dropFirst(8)) == disk.content)
    client.read(cookie: 2, 0, 100 * 1024)
    var data: [UInt8] = []
    var isDone = false
    while !isDone {
      let chunk = try client.chunk()
      data += chunk.type == 2 ? [UInt8](repeating: 0, count: 512) : Array(chunk.content.dropFirst(8))
      isDone = chunk.isDone
    }
    #expect(data == Array(disk.content.prefix(100 * 1024)))
  }

  @Test("an export of 512-byte blocks refuses what is not a multiple, and takes the payload off the stream")
  func unaligned() throws {
    let disk = MemoryDisk(minimumBlock: 512)
    let bench = try Bench(disk)
    defer { bench.close() }
    let client = try bench.readyClient()
    client.write(cookie: 1, 3, [1, 2, 3])
    #expect(try client.simple() == .init(cookie: 1, error: 22))
    client.write(cookie: 2, 512, [UInt8](repeating: 1, count: 512))
    #expect(try client.simple() == .init(cookie: 2))
    #expect(disk.log.filter { $0.hasPrefix("reserve") } == ["reserve 512"])
  }

  @Test("a write whose payload is cut off is abandoned and never applied", arguments: [0, 10, 99_999])
  func cutPayload(received: Int) throws {
    let disk = MemoryDisk()
    let bench = try Bench(disk)
    defer { bench.close() }
    let client = try bench.readyClient()
    client.send(RawClient.request(1, cookie: 1, offset: 0, length: 100_000))
    client.send([UInt8](repeating: 1, count: received))
    client.hangUp()
    #expect(disk.wait(for: "close false"))
    #expect(disk.log == ["open", "reserve 0", "abandon 0", "close false"])
    #expect(disk.content.allSatisfy { $0 == 0 })
  }

  @Test("what a write entails comes after its reply is on the wire")
  func afterReply() throws {
    let disk = MemoryDisk()
    let bench = try Bench(disk)
    defer { bench.close() }
    let client = try bench.readyClient()
    // The work waits for the client to have had the reply: were it done first, nobody would get anywhere.
    disk.afterReplies { #expect(disk.wait(for: "replied")) }
    client.write(cookie: 1, 0, [1])
    #expect(try client.simple() == .init(cookie: 1))
    disk.note("replied")
  }

  @Test("NBD_CMD_DISC closes the session cleanly and the socket at once; a lost client does not")
  func endings() throws {
    let disk = MemoryDisk()
    let bench = try Bench(disk)
    defer { bench.close() }
    let client = try bench.readyClient()
    client.disconnect()
    #expect(client.isAtEnd())
    #expect(disk.wait(for: "close true"))
    try bench.readyClient().hangUp()
    #expect(disk.wait(for: "close false"))
  }

  @Test("ESHUTDOWN never reaches a client: the connection ends instead")
  func shutdownError() throws {
    let disk = MemoryDisk()
    let bench = try Bench(disk)
    defer { bench.close() }
    let client = try bench.readyClient()
    disk.failFlush(ExportError(.shutdown, "stopping"))
    client.flush(cookie: 1)
    #expect(client.isAtEnd())
    #expect(disk.wait(for: "close false"))
  }

  @Test("stopping the server drops every client without a word and closes every session")
  func stop() throws {
    let disk = MemoryDisk()
    let bench = try Bench(disk)
    defer { bench.close() }
    disk.withhold(0..<1)
    let clients = try (0..<5).map { _ in try bench.readyClient() }
    for client in clients { client.read(cookie: 1, 0, 512) }
    #expect(disk.wait(for: "park", count: 5))
    bench.server.stop()
    for client in clients { #expect(client.isAtEnd()) }
    #expect(disk.log.count { $0 == "close false" } == 5)
    #expect(bench.server.counts.connectionsOpen == 0 && bench.server.counts.readsParked == 0)
    #expect(access(bench.path, F_OK) != 0, "the socket file is gone")
  }
}
