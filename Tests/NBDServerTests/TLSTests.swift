import Foundation
import Glibc
import NBDProtocol
import NBDServer
import Testing
import Threads

// Goal: TLS lets the right clients in and nobody else, carries what plain sockets carry, and a client that does not get on
// with it costs nobody anything.
// Method: libnbd and qemu as clients with certificates and keys; bare sockets for what no decent client does.

@Suite("TLS")
struct TLSTests {
  private let files: Certificates

  init() throws { files = try Certificates.shared.get() }

  private func settings(
    _ policy: TLSPolicy = .require, verifyingPeer: Bool = false, keys: Bool = false
  ) throws -> TLSSettings {
    let credentials =
      keys
      ? try TLSCredentials(keys: files.keys)
      : try TLSCredentials(certificates: files.directory, verifyingPeer: verifyingPeer)
    return TLSSettings(policy: policy, credentials: credentials)
  }

  private func bench(_ disk: MemoryDisk, _ settings: TLSSettings, _ limit: UInt64? = nil) throws -> Bench {
    try Bench(disk) { options in
      options.tls = settings
      if let limit { options.handshakeNanoseconds = limit }
    }
  }

  private func certified(_ bench: Bench, _ directory: String? = nil, scheme: String = "nbds") -> String {
    "\(scheme)+unix:///disk?socket=\(bench.path)&tls-certificates=\(directory ?? files.directory)"
  }

  /// Runs `script` in nbdsh, with `h` connected and `uri` its URI.
  private func shell(_ bench: Bench, _ script: String) throws -> Client.Outcome {
    let connect = """
      uri = "\(certified(bench))"
      def connect(handle):
          handle.set_uri_allow_local_file(True); handle.connect_uri(uri); return handle
      connect(h)

      """
    return try Client.run("nbdsh", "-c", connect + script)
  }

  private func info(_ uri: String) throws -> Int32 { try Client.run("nbdinfo", "--size", uri).status }

  @Test("certificates: who trusts the authority gets in, and who speaks in the clear does not")
  func certificates() throws {
    let bench = try bench(MemoryDisk(), settings())
    defer { bench.close() }
    #expect(try info(certified(bench)) == 0)
    #expect(try info("nbd+unix:///disk?socket=\(bench.path)") != 0)
    let list = try Client.run("nbdinfo", "--list", "--json", certified(bench))
    #expect(list.status == 0 && list.output.contains("\"TLS\": true"), "\(list.output)")
  }

  @Test("where TLS is offered clients may do without")
  func offered() throws {
    let bench = try bench(MemoryDisk(), settings(.on))
    defer { bench.close() }
    #expect(try info(certified(bench)) == 0)
    #expect(try info("nbd+unix:///disk?socket=\(bench.path)") == 0)
  }

  @Test("with client verification only who has a certificate of the authority gets in")
  func verifiedClients() throws {
    let bench = try bench(MemoryDisk(), settings(verifyingPeer: true))
    defer { bench.close() }
    #expect(try info(certified(bench)) == 0)
    #expect(try info(certified(bench, files.strangers)) != 0, "signed by another authority")
    let bare = Bench.temporaryDirectory()
    defer { try? FileManager.default.removeItem(atPath: bare) }
    try FileManager.default.copyItem(atPath: files.directory + "/ca-cert.pem", toPath: bare + "/ca-cert.pem")
    #expect(try info(certified(bench, bare)) != 0, "without a certificate")
    #expect(bench.wait(forLog: "TLS handshake"))
  }

  @Test("keys: the right one gets in, another does not; a directory stands for its keys.psk")
  func keys() throws {
    let bench = try bench(MemoryDisk(), settings(keys: true))
    defer { bench.close() }
    func uri(_ keys: String) -> String {
      "nbds+unix://alice@/disk?socket=\(bench.path)&tls-psk-file=\(keys)"
    }
    let info = try Client.run("nbdinfo", "--size", uri(files.keys))
    #expect(info.status == 0, "\(info.output)")
    #expect(try Client.run("nbdinfo", "--size", uri(files.wrongKeys)).status != 0)
    _ = try TLSCredentials(keys: files.directory)
  }

  @Test("missing or broken files are named when the server starts")
  func missingFiles() throws {
    let empty = Bench.temporaryDirectory()
    defer { try? FileManager.default.removeItem(atPath: empty) }
    func message(_ make: () throws -> TLSCredentials) -> String {
      do { return "\(try make())" } catch { return "\(error)" }
    }
    #expect(
      message { try TLSCredentials(certificates: empty, verifyingPeer: false) }.contains(
        "server-cert.pem: No such"))
    #expect(message { try TLSCredentials(keys: empty + "/none") }.contains("none: No such"))
    for name in ["server-cert.pem", "server-key.pem"] {
      try FileManager.default.copyItem(atPath: "\(files.directory)/\(name)", toPath: "\(empty)/\(name)")
    }
    _ = try TLSCredentials(certificates: empty, verifyingPeer: false)
    #expect(
      message { try TLSCredentials(certificates: empty, verifyingPeer: true) }.contains(
        "ca-cert.pem: No such"))
    try "nonsense".write(toFile: empty + "/server-cert.pem", atomically: true, encoding: .utf8)
    #expect(
      message { try TLSCredentials(certificates: empty, verifyingPeer: false) }.contains("server-cert.pem: "))
  }

  @Test("nbdcopy copies in and out over four connections with many requests in flight")
  func copies() throws {
    let disk = MemoryDisk(byteCount: 16 << 20)
    let bench = try bench(disk, settings())
    defer { bench.close() }
    let seed = UInt64.random(in: 0...UInt64.max)
    print("seed \(seed)")
    var state = seed
    let data = (0..<16 << 20).map { index -> UInt8 in
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return (index >> 16) % 5 == 1 ? 0 : UInt8(truncatingIfNeeded: state >> 56)
    }
    let (source, target) = (bench.directory + "/in", bench.directory + "/out")
    try Data(data).write(to: URL(fileURLWithPath: source))
    defer { for file in [source, target] { unlink(file) } }
    for size in [4096, 1 << 20] {
      disk.content = [UInt8](repeating: 7, count: 16 << 20)
      let options = ["--connections=4", "--requests=32", "--request-size=\(size)"]
      let copyIn = try Client.run("nbdcopy", options[0], options[1], options[2], source, certified(bench))
      #expect(copyIn.status == 0, "\(copyIn.output)")
      #expect((disk.content == data) as Bool)
      let copyOut = try Client.run("nbdcopy", options[0], options[1], options[2], certified(bench), target)
      #expect(copyOut.status == 0, "\(copyOut.output)")
      let copy = try Data(contentsOf: URL(fileURLWithPath: target))
      #expect((copy == Data(data)) as Bool)
    }
  }

  // One thread receives writes while another answers parked reads on the same session.
  @Test("writes are received while the answers to parked reads are sent, on one session")
  func bothDirections() throws {
    let disk = MemoryDisk(byteCount: 4 << 20)
    disk.content = (0..<4 << 20).map { UInt8(truncatingIfNeeded: $0 / 7) }
    disk.withhold(0..<4096)
    let bench = try bench(disk, settings())
    defer { bench.close() }
    let wakes = WorkerThread(name: "wakes") {
      _ = disk.wait(for: "park", count: 32)
      for sector in stride(from: 0, to: 4096, by: 128) as StrideTo<UInt64> {
        disk.arrive(sector..<sector + 128)
      }
    }
    let script = """
      view = [bytes((at // 7) % 256 for at in range(n * 65536, (n + 1) * 65536)) for n in range(32)]
      buffers = [nbd.Buffer(65536) for n in range(32)]
      reads = [h.aio_pread(buffers[n], n * 65536) for n in range(32)]
      keep = []
      for turn in range(200):
          data = nbd.Buffer.from_bytearray(bytearray([turn % 256]) * 65536)
          keep.append((data, h.aio_pwrite(data, (2 << 20) + (turn % 32) * 65536)))
          h.poll(0)
      for cookie in reads + [cookie for data, cookie in keep]:
          while not h.aio_command_completed(cookie): h.poll(-1)
      assert [bytes(buffer.to_bytearray()) for buffer in buffers] == view
      for n in range(32):
          last = max(turn for turn in range(200) if turn % 32 == n)
          assert h.pread(65536, (2 << 20) + n * 65536) == bytes([last % 256]) * 65536, n
      h.shutdown(); print("done")
      """
    let outcome = try shell(bench, script)
    #expect(outcome.output.split(separator: "\n").last == "done", "\(outcome.output)")
    wakes?.join()
    #expect(disk.wait(for: "close true"))
  }

  @Test("a refused write leaves the session in step")
  func refusedWrite() throws {
    let bench = try bench(MemoryDisk(minimumBlock: 512), settings())
    defer { bench.close() }
    let script = """
      h.set_strict_mode(0)
      for at, size in [(1, 100), (1 << 20, 1 << 20), (3, 200000)]:
          try: h.pwrite(b"x" * size, at); assert False
          except nbd.Error as error: print(error.errno)
      h.pwrite(b"y" * 512, 512)
      assert h.pread(1024, 0) == bytes(512) + b"y" * 512
      print("done")
      """
    let outcome = try shell(bench, script)
    let lines = outcome.output.split(separator: "\n")
    #expect(lines.suffix(4) == ["EINVAL", "ENOSPC", "EINVAL", "done"], "\(outcome.output)")
  }

  @Test("qemu-img proves itself with a certificate over TCP, and copies")
  func qemu() throws {
    let disk = MemoryDisk(byteCount: 2 << 20)
    disk.content = (0..<2 << 20).map { UInt8(truncatingIfNeeded: $0 / 3) }
    let bench = try bench(disk, settings(verifyingPeer: true))
    defer { bench.close() }
    guard
      case .tcp(_, let port) = try bench.server.listen(on: .tcp(host: "127.0.0.1", port: 0), directory: disk)
    else { return }
    let image = bench.directory + "/image"
    defer { unlink(image) }
    let credentials = "tls-creds-x509,id=tls,endpoint=client,dir=\(files.directory)"
    let remote = "driver=nbd,host=127.0.0.1,port=\(port),export=disk,tls-creds=tls"
    let convert = try Client.run(
      "qemu-img", "convert", "--object", credentials, "--image-opts", remote, "-O", "raw", image)
    #expect(convert.status == 0, "\(convert.output)")
    #expect((try Data(contentsOf: URL(fileURLWithPath: image)) == Data(disk.content)) as Bool)
  }

  @Test("what is sent in the clear behind STARTTLS ends the connection", arguments: [1, 16])
  func injected(byteCount: Int) throws {
    let bench = try bench(MemoryDisk(), settings(.on))
    defer { bench.close() }
    let client = try bench.client()
    client.send(
      [0, 0, 0, 3] + Array("IHAVEOPT".utf8) + [0, 0, 0, 5, 0, 0, 0, 0]
        + [UInt8](repeating: 0, count: byteCount))
    _ = try client.receive(18)
    #expect(client.isAtEnd())
    #expect(bench.wait(forLog: "in the clear behind"))
  }

  @Test(
    "a TLS handshake that does not get on is ended by the time limit",
    arguments: [[], [22, 3, 1, 2, 0, 1]] as [[UInt8]])
  func stuckHandshake(first: [UInt8]) throws {
    let bench = try bench(MemoryDisk(), settings(.on), 300_000_000)
    defer { bench.close() }
    let client = try bench.client()
    client.send([0, 0, 0, 3] + Array("IHAVEOPT".utf8) + [0, 0, 0, 5, 0, 0, 0, 0])
    _ = try client.receive(18 + 20)
    client.send(first)
    #expect(client.isAtEnd())
  }

  @Test("a handshake of nonsense is ended at once, and others do not notice")
  func nonsense() throws {
    let bench = try bench(MemoryDisk(), settings(.on))
    defer { bench.close() }
    let client = try bench.client()
    client.send([0, 0, 0, 3] + Array("IHAVEOPT".utf8) + [0, 0, 0, 5, 0, 0, 0, 0])
    _ = try client.receive(18 + 20)
    client.send([UInt8](repeating: 0x41, count: 4096))
    #expect(bench.wait(forLog: "TLS handshake"))
    let other = try bench.readyClient()
    other.flush(cookie: 1)
    #expect(try other.simple().cookie == 1)
  }

  @Test("a reader that takes no answers keeps nobody else waiting, and goes when the memory is wanted")
  func slowReader() throws {
    let disk = MemoryDisk(byteCount: 32 << 20)
    let bench = try bench(disk, settings())
    defer { bench.close() }
    let script = """
      import os, time
      slow = [h.aio_pread(nbd.Buffer(32 << 20), 0) for n in range(2)]
      other = connect(nbd.NBD())
      for n in range(5): other.pread(32 << 20, 0)
      print("done", flush=True); os._exit(0)
      """
    let outcome = try shell(bench, script)
    #expect(outcome.output.split(separator: "\n").last == "done", "\(outcome.output)")
  }
}
