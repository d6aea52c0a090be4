import Foundation
import Glibc
import NBDServer
import Testing

// Goal: the clients people use get what the protocol promises.
// Method: they are started against an export in memory; data is compared byte for byte. A client that is missing is
// a failure: a test that may be skipped is one that nobody misses.

@Suite("Real clients")
struct RealClientTests {
  private func uri(_ bench: Bench) -> String { "nbd+unix:///disk?socket=\(bench.path)" }

  /// Data with runs of zeroes, from a printed seed.
  private func pattern(_ byteCount: Int) -> [UInt8] {
    let seed = UInt64.random(in: 0...UInt64.max)
    print("seed \(seed)")
    var state = seed
    return (0..<byteCount).map { index in
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return (index >> 16) % 3 == 1 ? 0 : UInt8(truncatingIfNeeded: state >> 56)
    }
  }

  @Test("nbdinfo shows the export and its map")
  func nbdinfo() throws {
    let disk = MemoryDisk()
    disk.content.replaceSubrange(65536..<131072, with: [UInt8](repeating: 1, count: 65536))
    let bench = try Bench(disk)
    defer { bench.close() }
    let info = try Client.run("nbdinfo", "--json", uri(bench))
    #expect(info.status == 0)
    for part in [
      "\"export-size\": 1048576", "\"is_read_only\": false", "\"can_multi_conn\": true", "\"can_df\": true",
      "\"block_size_preferred\": 65536", "base:allocation", "a disk in memory",
    ] { #expect(info.output.contains(part), "\(part) in \(info.output)") }
    let map = try Client.run("nbdinfo", "--map", uri(bench))
    let rows = map.output.split(separator: "\n").map {
      $0.split(separator: " ").prefix(3).joined(separator: " ")
    }
    #expect(rows == ["0 65536 3", "65536 65536 0", "131072 917504 3"])
    let list = try Client.run("nbdinfo", "--list", "nbd+unix:///?socket=\(bench.path)")
    #expect(list.status == 0 && list.output.contains("export=\"disk\""))
  }

  @Test("qemu-io writes, zeroes, discards, flushes and reads back")
  func qemuIO() throws {
    let disk = MemoryDisk()
    let bench = try Bench(disk)
    defer { bench.close() }
    let io = try Client.run(
      "qemu-io", "-f", "raw", "-c", "write -P 0xab 4096 65536", "-c", "write -P 0xcd 100 300",
      "-c", "write -z 8192 4096", "-c", "discard 512k 4k", "-c", "flush", "-c", "read -P 0xab 4096 4096",
      "-c", "read -P 0 8192 4096", "-c", "read -P 0xcd 100 300", uri(bench))
    #expect(io.status == 0 && !io.output.contains("failed"), "\(io.output)")
    var expected = [UInt8](repeating: 0, count: 1 << 20)
    expected.replaceSubrange(4096..<69632, with: [UInt8](repeating: 0xab, count: 65536))
    expected.replaceSubrange(8192..<12288, with: [UInt8](repeating: 0, count: 4096))
    expected.replaceSubrange(100..<400, with: [UInt8](repeating: 0xcd, count: 300))
    #expect((disk.content == expected) as Bool)
    #expect(disk.wait(for: "close true"), "qemu says goodbye")
  }

  @Test("nbdcopy copies in and out over four connections")
  func nbdcopy() throws {
    let disk = MemoryDisk(byteCount: 16 << 20)
    let bench = try Bench(disk)
    defer { bench.close() }
    let data = pattern(16 << 20)
    let (source, target) = (bench.directory + "/in", bench.directory + "/out")
    try Data(data).write(to: URL(fileURLWithPath: source))
    defer { for file in [source, target] { unlink(file) } }
    let copyIn = try Client.run("nbdcopy", "--connections=4", "--request-size=262144", source, uri(bench))
    #expect(copyIn.status == 0, "\(copyIn.output)")
    #expect((disk.content == data) as Bool)
    let copyOut = try Client.run("nbdcopy", "--connections=4", uri(bench), target)
    #expect(copyOut.status == 0, "\(copyOut.output)")
    let copy = try Data(contentsOf: URL(fileURLWithPath: target))
    #expect((copy == Data(data)) as Bool)
  }

  @Test("qemu-img converts and compares over TCP")
  func qemuImage() throws {
    let disk = MemoryDisk(byteCount: 4 << 20)
    disk.content = pattern(4 << 20)
    let bench = try Bench(disk)
    defer { bench.close() }
    guard
      case .tcp(let host, let port) = try bench.server.listen(
        on: .tcp(host: "127.0.0.1", port: 0), directory: disk)
    else { return }
    let target = bench.directory + "/image"
    defer { unlink(target) }
    let remote = "nbd://\(host):\(port)/disk"
    #expect(try Client.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", remote, target).status == 0)
    #expect(try Client.run("qemu-img", "compare", "-f", "raw", remote, target).status == 0)
  }

  @Test("nbdsh sees the errors that doc/proto.md asks for")
  func nbdsh() throws {
    let bench = try Bench(MemoryDisk(minimumBlock: 512))
    defer { bench.close() }
    let script = """
      import errno
      h.set_strict_mode(0)
      def error(f):
          try: f()
          except nbd.Error as e: return e.errno
          return "none"
      print(error(lambda: h.pwrite(b"x" * 512, 1 << 20)), error(lambda: h.pread(512, 1 << 20)),
            error(lambda: h.pwrite(b"x", 1)), error(lambda: h.cache(512, 0)),
            error(lambda: h.zero(512, 0, nbd.CMD_FLAG_FAST_ZERO)), error(lambda: h.pread(512, 0)))
      """
    let outcome = try Client.run("nbdsh", "-u", uri(bench), "-c", script)
    #expect(outcome.output.split(separator: "\n").last == "ENOSPC EINVAL EINVAL none none none")
  }
}
