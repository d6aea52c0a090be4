import NBDServer
import Testing

// Goal: of a queue of large reads two are served at once, each is answered once, and none is lost at the end.
// Method: requests are sent in one piece, so that all are there when the first is served; the export holds one read.

private let size = 128 << 10

@Suite("Queues of large reads")
struct LargeReadTests {
  private func queue(_ offsets: [Int], _ length: Int = size) -> [UInt8] {
    offsets.enumerated().flatMap {
      RawClient.request(0, cookie: UInt64($0), offset: UInt64($1), length: length)
    }
  }

  private func filledDisk() -> MemoryDisk {
    let disk = MemoryDisk()
    disk.content = (0..<1 << 20).map { UInt8(truncatingIfNeeded: $0 / 4099 + 1) }
    return disk
  }

  @Test("while one read takes long, the next is answered")
  func overtaken() throws {
    let disk = filledDisk()
    let bench = try Bench(disk)
    defer { bench.close() }
    let client = try bench.readyClient()
    disk.holdRead(0)
    defer { disk.releaseRead() }
    client.send(queue([0, size]))
    #expect(try client.simple(data: size).cookie == 1)
    disk.releaseRead()
    #expect(try client.simple(data: size).cookie == 0)
    #expect(bench.server.counts.readsParked == 0)
  }

  @Test("each is answered once, with its own bytes")
  func answers() throws {
    let disk = filledDisk()
    let bench = try Bench(disk)
    defer { bench.close() }
    let client = try bench.readyClient()
    let offsets = (0..<200).map { $0 * 4099 % 7 * size + $0 }
    // The replies are more than the sockets hold, so they are taken while the queue goes out.
    for start in stride(from: 0, to: offsets.count, by: 20) {
      client.send(queue(Array(offsets[start..<start + 20])))
      var left = Set(0..<20 as Range<UInt64>)
      for _ in 0..<20 {
        let reply = try client.simple(data: size)
        #expect(left.remove(reply.cookie) != nil, "answered twice")
        let offset = offsets[start + Int(reply.cookie)]
        let isRight = reply.data == Array(disk.content[offset..<offset + size])
        #expect(isRight, "read \(reply.cookie)")
      }
    }
    #expect(bench.server.counts.readsParked == 0)
  }

  @Test("one that parks is answered when its data arrives")
  func parks() throws {
    let disk = filledDisk()
    disk.withhold(0..<8)
    let bench = try Bench(disk)
    defer { bench.close() }
    let client = try bench.readyClient()
    client.send(queue([0, size]))
    #expect(try client.simple(data: size).cookie == 1)
    #expect(disk.wait(for: "park 0"))
    #expect(!disk.log.contains("retry 0"))
    #expect(bench.server.counts.readsParked == 1)
    disk.arrive(0..<8)
    #expect(try client.simple(data: size).cookie == 0)
    #expect(bench.server.counts.readsParked == 0)
  }

  @Test("NBD_CMD_DISC behind them is taken when they are answered")
  func disconnected() throws {
    let disk = filledDisk()
    let bench = try Bench(disk)
    defer { bench.close() }
    let client = try bench.readyClient()
    disk.holdRead(0)
    defer { disk.releaseRead() }
    client.send(queue([0, size]) + RawClient.request(2, cookie: 0))
    #expect(try client.simple(data: size).cookie == 1)
    disk.releaseRead()
    #expect(try client.simple(data: size).cookie == 0)
    #expect(client.isAtEnd())
    #expect(disk.wait(for: "close true"))
  }

  @Test("a client that goes in the midst of them leaves nothing behind")
  func hungUp() throws {
    let disk = filledDisk()
    let bench = try Bench(disk)
    defer { bench.close() }
    for round in 1...20 {
      let client = try bench.readyClient()
      client.send(queue(Array(repeating: 0, count: 50)))
      _ = try client.simple(data: size)
      client.hangUp()
      #expect(disk.wait(for: "close false", count: round))
    }
    #expect(bench.server.counts.readsParked == 0)
  }
}
