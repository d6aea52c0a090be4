import NBDServer
import Testing
import Threads

// Goal: a read that needs a source that hangs holds up nobody but itself.
// Method: the export's source hangs until the test opens it.

@Suite("Reads that block")
struct BlockingReadTests {
  @Test("later requests overtake it, parked ones too, and it is answered when the source does")
  func overtaken() throws {
    let disk = MemoryDisk()
    disk.content = [UInt8](repeating: 9, count: 1 << 20)
    disk.makeSlow(0..<128)
    disk.withhold(256..<257)
    let bench = try Bench(disk)
    defer { bench.close() }
    let client = try bench.readyClient()
    // More than there are threads.
    for cookie in 0..<20 as Range<UInt64> { client.read(cookie: cookie, 0, 512) }
    #expect(disk.wait(for: "source", count: 8))
    client.read(cookie: 100, 256 * 512, 512)
    client.read(cookie: 101, 200 * 512, 512)
    #expect(try client.simple(data: 512).cookie == 101)
    disk.arrive(256..<257)
    #expect(try client.simple(data: 512).cookie == 100)
    #expect(disk.log.count { $0 == "source" } == 8, "a ninth thread waits for it")
    #expect(bench.server.counts.readsParked == 20)
    disk.openSource()
    var answered: Set<UInt64> = []
    for _ in 0..<20 { answered.insert(try client.simple(data: 512).cookie) }
    #expect(answered == Set(0..<20))
    #expect(bench.server.counts.readsParked == 0)
  }

  @Test("what it waits for may turn out to be the stream: then it is parked, and woken like any other")
  func parksAfterwards() throws {
    let disk = MemoryDisk()
    disk.makeSlow(0..<8)
    disk.withhold(0..<8)
    let bench = try Bench(disk)
    defer { bench.close() }
    let client = try bench.readyClient()
    client.read(cookie: 1, 0, 512)
    #expect(disk.wait(for: "source"))
    disk.openSource()
    #expect(disk.wait(for: "park"))
    disk.arrive(0..<8)
    #expect(try client.simple(data: 512).cookie == 1)
    #expect(bench.server.counts.readsParked == 0)
  }

  @Test("a client that goes is let go at once, and its session is closed when the source has answered")
  func disconnected() throws {
    let disk = MemoryDisk()
    disk.makeSlow(0..<8)
    let bench = try Bench(disk)
    defer { bench.close() }
    let client = try bench.readyClient()
    for cookie in 0..<20 as Range<UInt64> { client.read(cookie: cookie, 0, 512) }
    #expect(disk.wait(for: "source", count: 8))
    client.disconnect()
    #expect(client.isAtEnd(), "while the source hangs")
    #expect(bench.server.counts.readsParked == 0)
    #expect(!disk.log.contains("close true"))
    // Meanwhile the server serves others.
    let other = try bench.readyClient()
    other.read(cookie: 1, 8192, 512)
    #expect(try other.simple(data: 512).cookie == 1)
    disk.openSource()
    #expect(disk.wait(for: "close true"))
    #expect(disk.log.count { $0 == "source" } == 8, "what was only listed is not read any more")
  }

  @Test("reads of a source that hangs take half of the payload memory, and leave the rest")
  func memory() throws {
    let disk = MemoryDisk(byteCount: 20 << 20)
    disk.makeSlow(0..<(16 << 20) / 512)
    disk.withhold(0..<1)
    let bench = try Bench(disk)
    defer { bench.close() }
    let client = try bench.readyClient()
    for cookie in 0..<4 as Range<UInt64> { client.read(cookie: cookie, 0, 16 << 20) }
    #expect(disk.wait(for: "source", count: 2))
    let other = try bench.readyClient()
    other.read(cookie: 9, 16 << 20, 512)
    #expect(try other.simple(data: 512).cookie == 9)
    #expect(disk.log.count { $0 == "source" } == 2)
    client.hangUp()
    disk.openSource()
    #expect(disk.wait(for: "close false"))
  }
}
