import NBDProtocol
import NBDServer
import Testing

// Goal: a flush stops neither its connection nor anybody else, and nothing is called durable that is not.
// Method: an export whose flushes last as long as the test likes.

@Suite("FLUSH and FUA")
struct FlushTests {
  private static let fua: UInt16 = 1

  private func writeDurably(_ client: RawClient, cookie: UInt64, _ offset: UInt64) {
    client.send(RawClient.request(1, flags: Self.fua, cookie: cookie, offset: offset, length: 1) + [9])
  }

  @Test("later requests are served while a flush lasts, and its reply comes after it")
  func overtaken() throws {
    let disk = MemoryDisk()
    let bench = try Bench(disk)
    defer { bench.close() }
    disk.holdFlush()
    let client = try bench.readyClient()
    client.flush(cookie: 1)
    #expect(disk.wait(for: "flush"))
    client.write(cookie: 2, 0, [1])
    client.send(RawClient.request(4, cookie: 3, offset: 8, length: 8))
    #expect(try client.simple() == .init(cookie: 2))
    #expect(try client.simple() == .init(cookie: 3))
    disk.releaseFlush()
    #expect(try client.simple() == .init(cookie: 1))
  }

  @Test("what waits for durability shares a flush that began after all of it was changed")
  func shared() throws {
    let disk = MemoryDisk()
    let bench = try Bench(disk)
    defer { bench.close() }
    disk.holdFlush()
    let client = try bench.readyClient()
    writeDurably(client, cookie: 1, 0)
    #expect(disk.wait(for: "flush"))
    for number in 2...16 as ClosedRange<UInt64> { writeDurably(client, cookie: number, number) }
    client.send(RawClient.request(6, flags: Self.fua, cookie: 17, offset: 64, length: 8))
    client.send(RawClient.request(4, flags: Self.fua, cookie: 18, offset: 128, length: 8))
    #expect(disk.wait(for: "trim 128"))
    #expect(!disk.log.contains("flushed"))
    disk.releaseFlush()
    var answered: [UInt64] = []
    for _ in 1...18 { answered.append(try client.simple().cookie) }
    #expect(answered == Array(1...18))
    let log = disk.log
    #expect(log.count { $0 == "flush" } == 2)
    #expect(try #require(log.lastIndex(of: "flush")) > #require(log.lastIndex(of: "trim 128")))
  }

  @Test("a flush that fails fails everything that waited for it, and the connection lives on")
  func failed() throws {
    let disk = MemoryDisk()
    let bench = try Bench(disk)
    defer { bench.close() }
    disk.failFlush(ExportError(.inputOutput, "the disk is broken"))
    let client = try bench.readyClient()
    writeDurably(client, cookie: 1, 0)
    #expect(try client.simple() == .init(cookie: 1, error: 5))
    client.flush(cookie: 2)
    #expect(try client.simple() == .init(cookie: 2, error: 5))
    client.read(cookie: 3, 0, 1)
    #expect(try client.simple(data: 1) == .init(cookie: 3, data: [9]))
  }

  @Test("NBD_CMD_DISC ends the connection when what waited was answered")
  func disconnect() throws {
    let disk = MemoryDisk()
    let bench = try Bench(disk)
    defer { bench.close() }
    disk.holdFlush()
    let client = try bench.readyClient()
    client.flush(cookie: 1)
    writeDurably(client, cookie: 2, 0)
    client.disconnect()
    #expect(disk.wait(for: "applied 0"))
    disk.releaseFlush()
    #expect(try client.simple() == .init(cookie: 1))
    #expect(try client.simple() == .init(cookie: 2))
    #expect(client.isAtEnd())
    #expect(disk.wait(for: "close true"))
    #expect(disk.log.last == "close true")
  }

  @Test("a client that goes while a flush lasts is closed when the flush has returned, and not before")
  func gone() throws {
    let disk = MemoryDisk()
    let bench = try Bench(disk)
    defer { bench.close() }
    disk.holdFlush()
    let client = try bench.readyClient()
    client.flush(cookie: 1)
    #expect(disk.wait(for: "flush"))
    writeDurably(client, cookie: 2, 0)
    #expect(disk.wait(for: "applied 0"))
    client.hangUp()
    let other = try bench.readyClient()
    other.read(cookie: 1, 0, 1)
    #expect(try other.simple(data: 1) == .init(cookie: 1, data: [9]))
    #expect(!disk.log.contains("close false"))
    disk.releaseFlush()
    #expect(disk.wait(for: "close false"))
    #expect(disk.log.count { $0 == "flush" } == 1, "nobody waits for the second")
  }

  @Test("more that wait than are listed wait in the socket, and all are answered")
  func many() throws {
    let disk = MemoryDisk()
    let bench = try Bench(disk)
    defer { bench.close() }
    disk.holdFlush()
    let client = try bench.readyClient()
    client.flush(cookie: 0)
    #expect(disk.wait(for: "flush"))
    for number in 1...1100 as ClosedRange<UInt64> { client.flush(cookie: number) }
    disk.releaseFlush()
    for number in 0...1100 as ClosedRange<UInt64> { #expect(try client.simple().cookie == number) }
  }
}
