import NBDProtocol
import Testing

// Goal: what a stream means must not depend on how the network cut it up.
// Method: whole connections of several clients are run unsplit, cut in two at every byte, byte by byte, and
// at random places; all that happens must be the same each time.

@Suite("The machine and the network's cuts")
struct SplitTests {
  /// qemu's block driver: structured replies, one context, GO; then one of each request, some refused.
  static var qemu: [UInt8] {
    var stream = ClientStream.flags()
    stream.option(5)
    stream.option(8)
    stream.contexts(10, "disk", ["base:allocation"])
    stream.go("disk", infos: [3])
    appendRequests(to: &stream)
    return stream.bytes
  }

  /// libnbd as nbdinfo drives it: asks around before it goes, and makes mistakes that must not cost the step.
  static var libnbd: [UInt8] {
    var stream = ClientStream.flags()
    stream.option(5)
    stream.option(8)
    stream.option(3)
    stream.contexts(9, "disk", [])
    stream.go("nowhere", infos: [0, 1, 2, 3], option: 6)
    stream.go("view", infos: [1, 2], option: 6)
    stream.option(7, [0, 0, 0, 200, 1])
    stream.option(99, [UInt8](repeating: 1, count: 50))
    stream.option(10, [UInt8](repeating: 0, count: 33 << 10))
    stream.contexts(10, "disk", ["base:allocation", "qemu:dirty-bitmap:x"])
    stream.go("disk", infos: [0, 1, 2, 3, 77])
    appendRequests(to: &stream)
    return stream.bytes
  }

  /// qemu 9 and libnbd 1.18: extended headers, payloads where they belong and where they do not.
  static var extended: [UInt8] {
    var stream = ClientStream.flags()
    stream.option(11)
    stream.option(8)
    stream.contexts(10, "disk", ["base:allocation"])
    stream.go("disk")
    stream.extended(1, flags: 32, cookie: 1, offset: 4096, length: 5, payload: [1, 2, 3, 4, 5])
    stream.extended(1, cookie: 2, offset: 4096, length: 5)
    stream.extended(0, flags: 32, cookie: 3, length: 9, payload: [UInt8](repeating: 0x21, count: 9))
    stream.extended(7, cookie: 4, length: 1 << 20)
    stream.extended(7, flags: 40, cookie: 5, length: 12, payload: big(512 as UInt64) + big(1 as UInt32))
    stream.extended(7, flags: 32, cookie: 6, length: 40, payload: [UInt8](repeating: 0, count: 40))
    stream.extended(6, flags: 18, cookie: 7, length: 1 << 20)
    stream.extended(2)
    return stream.bytes
  }

  /// The kernel's client by its old option.
  static var old: [UInt8] {
    var stream = ClientStream.flags(0)
    stream.option(1, Array("disk".utf8))
    appendRequests(to: &stream)
    return stream.bytes
  }

  private static func appendRequests(to stream: inout ClientStream) {
    stream.request(1, cookie: 1, offset: 4096, length: 300, payload: (0..<300).map { UInt8($0 & 255) })
    stream.request(0, cookie: 2, offset: 4096, length: 300)
    stream.request(
      1, flags: 1, cookie: 3, offset: 1 << 20, length: 40, payload: [UInt8](repeating: 9, count: 40))
    stream.request(1, cookie: 4, offset: 512, length: 60, payload: [UInt8](repeating: 8, count: 60))
    stream.request(6, flags: 2, cookie: 5, offset: 0, length: 1 << 20)
    stream.request(4, flags: 1, cookie: 6, offset: 8, length: 8)
    stream.request(7, flags: 8, cookie: 7, offset: 0, length: 4096)
    stream.request(8, cookie: 8)
    stream.request(3, cookie: 9)
    stream.request(2, cookie: 10)
  }

  private func outcome(_ stream: [UInt8], cuts: [Int]) -> [Happening] {
    var shell = Shell()
    shell.refusedOffset = 512
    shell.run(stream, cuts: cuts)
    return shell.happenings
  }

  @Test(
    "a stream means the same however it is cut up",
    arguments: [
      ("qemu", SplitTests.qemu), ("libnbd", SplitTests.libnbd), ("old", SplitTests.old),
      ("extended", SplitTests.extended),
    ])
  func everySplit(client: String, stream: [UInt8]) {
    let whole = outcome(stream, cuts: [])
    #expect(whole.last == .event(.disconnect), "\(client) gets to its end")
    // The long option of one stream is the same everywhere: its inner cuts are sampled.
    for cut in 1..<stream.count
    where stream.count < 4000 || cut < 800 || cut > stream.count - 1200 || cut % 997 == 0 {
      #expect(outcome(stream, cuts: [cut]) == whole, "\(client) cut at \(cut)")
    }
    if stream.count < 4000 { #expect(outcome(stream, cuts: Array(1..<stream.count)) == whole) }
    let seed = UInt64.random(in: 0...UInt64.max)
    print("seed \(seed)")
    var random = SplitMix(state: seed)
    for _ in 0..<50 {
      let cuts = Set((0..<random.next() % 40).map { _ in Int(random.next() % UInt64(stream.count)) }).sorted()
      #expect(outcome(stream, cuts: cuts) == whole, "\(client), seed \(seed), cuts \(cuts)")
    }
  }
}

/// A small seeded generator (SplitMix64).
struct SplitMix {
  var state: UInt64

  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
    return z ^ (z >> 31)
  }
}
