import Glibc
import NBDProtocol
import NBDServer
import Testing
import Threads

// Goal: a parked read waits alone, is answered exactly once, and leaves nothing behind when its client goes.
// Method: the export withholds sectors and releases them when the test says so; nothing sleeps.

@Suite("Parked reads")
struct ParkedReadTests {
  @Test("a parked read is overtaken by later requests and answered when its data arrives")
  func overtaken() throws {
    let disk = MemoryDisk()
    disk.content = [UInt8](repeating: 9, count: 1 << 20)
    disk.withhold(0..<8)
    let bench = try Bench(disk)
    defer { bench.close() }
    let client = try bench.readyClient()
    client.read(cookie: 1, 0, 4096)
    client.read(cookie: 2, 4096, 512)
    client.flush(cookie: 3)
    #expect(try client.simple(data: 512).cookie == 2)
    #expect(try client.simple().cookie == 3)
    #expect(bench.server.counts.readsParked == 1)
    disk.arrive(0..<8)
    #expect(try client.simple(data: 4096) == .init(cookie: 1, data: [UInt8](repeating: 9, count: 4096)))
    #expect(bench.server.counts.readsParked == 0)
  }

  @Test("a read that is woken while part of it is missing parks again")
  func parksAgain() throws {
    let disk = MemoryDisk()
    disk.withhold(0..<8)
    let bench = try Bench(disk)
    defer { bench.close() }
    let client = try bench.readyClient()
    client.read(cookie: 1, 0, 4096)
    #expect(disk.wait(for: "park"))
    #expect(!disk.log.contains("retry 0"))
    disk.arrive(0..<4)
    #expect(disk.wait(for: "park", count: 2))
    #expect(disk.log.filter { $0 == "retry 0" || $0 == "park 0" } == ["park 0", "retry 0", "park 0"])
    #expect(bench.server.counts.readsParked == 1)
    disk.arrive(4..<8)
    #expect(try client.simple(data: 4096).cookie == 1)
    #expect(disk.log.count { $0 == "retry 0" } == 2, "every call but the first says that it is one")
  }

  @Test("a parked read that fails gets its error, with the message")
  func fails() throws {
    let disk = MemoryDisk()
    disk.withhold(0..<8)
    let bench = try Bench(disk)
    defer { bench.close() }
    let client = try bench.readyClient(structured: true)
    client.read(cookie: 1, 0, 4096)
    #expect(disk.wait(for: "park"))
    disk.failWaiting(ExportError(.inputOutput, "never came"))
    let chunk = try client.chunk()
    #expect(chunk.type == 0x8001 && chunk.cookie == 1)
    #expect(chunk.content == [0, 0, 0, 5, 0, 10] + Array("never came".utf8))
    client.flush(cookie: 2)
    #expect(try client.simple().cookie == 2)
    #expect(bench.server.counts.readsParked == 0)
  }

  @Test("a waiter that is woken again answers nothing again")
  func wokenTwice() throws {
    let disk = MemoryDisk()
    disk.withhold(0..<8)
    let bench = try Bench(disk)
    defer { bench.close() }
    let client = try bench.readyClient()
    client.read(cookie: 1, 0, 512)
    #expect(disk.wait(for: "park 0"))
    disk.wakeAll(times: 3)
    #expect(disk.wait(for: "park 0", count: 2))
    // Woken reads are tried in the order of their waking: when this one is back, nothing earlier is
    // outstanding.
    client.read(cookie: 3, 512, 512)
    #expect(disk.wait(for: "park 512"))
    disk.wakeAll()
    #expect(disk.wait(for: "park 512", count: 2))
    #expect(disk.log.count { $0 == "park 0" } == 3, "one wake, one attempt")
    disk.arrive(0..<8)
    #expect(try Set([client.simple(data: 512).cookie, client.simple(data: 512).cookie]) == [1, 3])
    client.flush(cookie: 2)
    #expect(try client.simple().cookie == 2, "nothing in between")
  }

  @Test("NBD_CMD_DISC drops what is parked, at once and cleanly; a late wake does nothing")
  func disconnected() throws {
    let disk = MemoryDisk()
    disk.withhold(0..<8)
    let bench = try Bench(disk)
    defer { bench.close() }
    let client = try bench.readyClient()
    for cookie in 0..<100 { client.read(cookie: UInt64(cookie), 0, 512) }
    #expect(disk.wait(for: "park", count: 100))
    client.disconnect()
    #expect(client.isAtEnd())
    #expect(disk.wait(for: "close true"))
    #expect(bench.server.counts.readsParked == 0)
    disk.arrive(0..<8)
    #expect(!disk.log.contains("read 0"))
  }

  @Test("when waking and disconnecting race, each read is answered or dropped exactly once")
  func race() throws {
    let disk = MemoryDisk()
    let bench = try Bench(disk)
    defer { bench.close() }
    for round in 1...100 {
      disk.withhold(0..<8)
      let client = try bench.readyClient()
      for cookie in 0..<8 { client.read(cookie: UInt64(cookie), 0, 512) }
      #expect(disk.wait(for: "park", count: 8 * round))
      let waker = WorkerThread(name: "waker") { disk.arrive(0..<8) }
      if round % 2 == 0 { client.disconnect() } else { client.hangUp() }
      waker?.join()
      if round % 2 == 0 {
        var seen: Set<UInt64> = []
        while let reply = try? client.simple(data: 512) { #expect(seen.insert(reply.cookie).inserted) }
      }
      #expect(disk.wait(for: round % 2 == 0 ? "close true" : "close false", count: (round + 1) / 2))
    }
    #expect(bench.server.counts.readsParked == 0)
  }

  @Test("at the limit a connection is not read until one of its reads is answered")
  func limit() throws {
    let disk = MemoryDisk()
    disk.withhold(0..<8)
    let bench = try Bench(disk) { $0.parkedReadsMax = 1 }
    defer { bench.close() }
    let client = try bench.readyClient()
    client.read(cookie: 1, 0, 512)
    client.flush(cookie: 2)
    #expect(disk.wait(for: "park"))
    // Another connection does not suffer.
    let other = try bench.readyClient()
    other.read(cookie: 3, 8192, 512)
    #expect(try other.simple(data: 512).cookie == 3)
    disk.arrive(0..<8)
    #expect(disk.wait(for: "flush"))
    let log = disk.log
    #expect(log.prefix { $0 != "flush" }.contains("read 0"))
    #expect(try Set([client.receive(16), client.receive(512 + 16)].map(\.count)) == [16, 528])
  }

  @Test("at the limit a client that has gone gives its place back")
  func limitAndGone() throws {
    let disk = MemoryDisk()
    disk.withhold(0..<8)
    let bench = try Bench(disk) { $0.parkedReadsMax = 1 }
    defer { bench.close() }
    let client = try bench.readyClient()
    client.read(cookie: 1, 0, 512)
    #expect(disk.wait(for: "park"))
    client.hangUp()
    #expect(disk.wait(for: "close false"))
    #expect(bench.server.counts.readsParked == 0)
  }
}
