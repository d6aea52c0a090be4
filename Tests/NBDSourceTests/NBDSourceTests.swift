import Bytes
import Foundation
import NBDSource
import Peers
import TestKit
import Testing

// Goal: what the view reads from the hypervisor is what the hypervisor has, or an error; and nothing keeps a reader.
// Method: nbdkit with plugins that know their bytes, wait for one another, or never answer.

@Suite("a source")
struct NBDSourceTests {
  let directory: TemporaryDirectory

  init() throws { directory = try TemporaryDirectory() }

  @Test("has the size and the bytes of the export, whatever the alignment of a read", arguments: seeds(2))
  func bytes(seed: UInt64) throws {
    let size: UInt64 = 40 << 20
    let server = try NBDKit(["pattern", "size=\(size)"], in: directory)
    let source = try NBDSource(uri: server.uri)
    #expect(source.byteCount == size)
    var generator = SeededGenerator(seed: seed)
    for _ in 0..<64 {
      let start = UInt64.random(in: 0..<size, using: &generator)
      let range = ByteRange(
        start: start, end: min(size, start + UInt64.random(in: 0...70_000, using: &generator)))
      #expect(try source.bytes(of: range) == pattern(range), "seed \(seed): \(range)")
    }
    let last = ByteRange(start: size - 1, end: size)
    #expect(try source.bytes(of: last) == pattern(last))
    // More than a request of the protocol may hold.
    let large = ByteRange(start: 3, end: size - 5)
    #expect(try source.bytes(of: large) == pattern(large))
  }

  @Test("asks in whole blocks and no more than the export allows", arguments: [512, 4096, 65536], seeds(1))
  func blockSizes(minimum: Int, seed: UInt64) throws {
    let size: UInt64 = 4 << 20
    let server = try NBDKit(
      [
        "--filter", "blocksize-policy", "pattern", "size=\(size)", "blocksize-minimum=\(minimum)",
        "blocksize-preferred=65536", "blocksize-maximum=131072", "blocksize-error-policy=error",
      ], in: directory)
    let source = try NBDSource(uri: server.uri)
    var generator = SeededGenerator(seed: seed)
    for _ in 0..<32 {
      let start = UInt64.random(in: 0..<size, using: &generator)
      let range = ByteRange(
        start: start, end: min(size, start + UInt64.random(in: 0...400_000, using: &generator)))
      #expect(try source.bytes(of: range) == pattern(range), "seed \(seed): \(range)")
    }
  }

  @Test("reads of several threads are on their way at once")
  func parallel() throws {
    // Each read leaves a mark and is answered when there are as many marks as threads: one after another, the first
    // give up.
    let marks = directory.file("marks")
    try FileManager.default.createDirectory(atPath: marks, withIntermediateDirectories: false)
    let server = try NBDKit(
      [
        "--threads", "16", "eval", "get_size=echo 65536", "can_multi_conn=exit 0",
        "thread_model=echo parallel",
        "pread=touch \(marks)/$4; for i in $(seq 1000); do [ $(ls \(marks) | wc -l) -lt 4 ] || "
          + "exec head -c $3 /dev/zero; sleep 0.01; done; echo EIO alone >&2; exit 1",
      ], in: directory)
    let source = try NBDSource(uri: server.uri, connectionsMax: 4)
    let ranges = (0..<4).map { ByteRange(offset: UInt64($0) * 4096, count: 4096) }
    let results = try Readers(ranges, of: source).join()
    #expect(results == [Result](repeating: .success([UInt8](repeating: 0, count: 4096)), count: 4))
  }

  @Test("more readers than connections take turns, and each gets its own bytes")
  func turns() throws {
    let server = try NBDKit(["pattern", "size=1M"], in: directory)
    let source = try NBDSource(uri: server.uri, connectionsMax: 2)
    let ranges = (0..<24).map { ByteRange(offset: UInt64($0) * 8192 + 1, count: 8000) }
    let results = try Readers(ranges, of: source).join()
    #expect(Set(results.map { try? $0.get() }) == Set(ranges.map(pattern)))
  }

  @Test("an export that others may write to, and that promises nothing, gets one connection")
  func oneConnection() throws {
    let opened = directory.file("opened")
    let server = try NBDKit(
      [
        "eval", "get_size=echo 65536", "open=echo >> \(opened)", "can_multi_conn=exit 3", "can_write=exit 0",
        "pwrite=exit 0", "pread=head -c $3 /dev/zero",
      ], in: directory)
    let source = try NBDSource(uri: server.uri)
    let ranges = (0..<8).map { ByteRange(offset: UInt64($0) * 4096, count: 4096) }
    #expect(try Readers(ranges, of: source).join().allSatisfy { (try? $0.get()) != nil })
    #expect(try String(contentsOfFile: opened, encoding: .utf8) == "\n")
  }

  @Test("a server that takes no further connection is read over those that there are")
  func limitedConnections() throws {
    let opened = directory.file("opened")
    let server = try NBDKit(
      [
        "eval", "get_size=echo 65536", "can_multi_conn=exit 0", "pread=head -c $3 /dev/zero",
        "open=[ ! -e \(opened) ] || { echo 'EBUSY one is enough' >&2; exit 1; }; touch \(opened)",
      ], in: directory)
    let source = try NBDSource(uri: server.uri)
    let ranges = (0..<8).map { ByteRange(offset: UInt64($0) * 4096, count: 4096) }
    #expect(try Readers(ranges, of: source).join().allSatisfy { (try? $0.get()) != nil })
  }

  @Test("closing ends a read that the server never answers, and all later ones")
  func close() throws {
    let asked = directory.file("asked")
    let server = try NBDKit(
      [
        "eval", "get_size=echo 65536", "can_multi_conn=exit 0",
        "pread=echo asked > \(asked); exec tail --pid=$PPID -f /dev/null",
      ], in: directory)
    let source = try NBDSource(uri: server.uri, connectionsMax: 1)
    // The second waits for the connection of the first.
    let readers = try Readers(
      [ByteRange(start: 0, end: 512), ByteRange(start: 512, end: 1024)], of: source)
    while !FileManager.default.fileExists(atPath: asked) {
      try #require(!server.child.hasEnded(within: .zero))
    }
    source.close()
    let error = SourceError(message: "the source at \(server.uri) cannot be read: it was closed")
    #expect(readers.join() == [.failure(error), .failure(error)])
    #expect(throws: error) { try source.bytes(of: ByteRange(start: 0, end: 512)) }
  }

  @Test("a refused read says why, and the connection goes on")
  func refused() throws {
    let server = try NBDKit(
      [
        "eval", "get_size=echo 65536",
        "pread=[ $4 -lt 4096 ] || { echo EIO bad sector >&2; exit 1; }; head -c $3 /dev/zero",
      ], in: directory)
    let source = try NBDSource(uri: server.uri, connectionsMax: 1)
    let error = #expect(throws: SourceError.self) { try source.bytes(of: ByteRange(start: 4096, end: 8192)) }
    #expect(
      error?.message.hasSuffix(
        "cannot be read: read: command failed: Input/output error") == true, "\(String(describing: error))")
    #expect(try source.bytes(of: ByteRange(start: 0, end: 8)) == [UInt8](repeating: 0, count: 8))
  }

  @Test("a server that went away and came back is read again; one that stays away is an error")
  func lost() throws {
    let server = try NBDKit(["pattern", "size=1M"], in: directory)
    let source = try NBDSource(uri: server.uri)
    let range = ByteRange(start: 5, end: 5000)
    #expect(try source.bytes(of: range) == pattern(range))
    try server.restart()
    #expect(try source.bytes(of: range) == pattern(range))
    server.child.kill()
    for _ in 0..<2 {
      let error = #expect(throws: SourceError.self) { try source.bytes(of: range) }
      #expect(error?.message.hasSuffix("Connection refused") == true, "\(String(describing: error))")
    }
  }

  @Test("a server that comes back with a disk of another size is not read")
  func otherDisk() throws {
    let size = directory.file("size")
    try "65536\n".write(toFile: size, atomically: true, encoding: .utf8)
    let server = try NBDKit(["eval", "get_size=cat \(size)", "pread=head -c $3 /dev/zero"], in: directory)
    let source = try NBDSource(uri: server.uri)
    try "131072\n".write(toFile: size, atomically: true, encoding: .utf8)
    try server.restart()
    let error = #expect(throws: SourceError.self) { try source.bytes(of: ByteRange(start: 0, end: 8)) }
    #expect(
      error?.message.hasSuffix("it has 131072 bytes now and had 65536 before") == true,
      "\(String(describing: error))")
  }

  @Test("a source that nobody serves is one sentence that names it")
  func missing() throws {
    let uri = "nbd+unix:///?socket=/nowhere/source.sock"
    let error = #expect(throws: SourceError.self) { _ = try NBDSource(uri: uri) }
    #expect(
      error?.message.hasPrefix("the source at \(uri) cannot be reached: ") == true
        && error?.message.hasSuffix("No such file or directory") == true, "\(String(describing: error))")
  }
}
