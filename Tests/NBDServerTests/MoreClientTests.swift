import Foundation
import Glibc
import NBDProtocol
import NBDServer
import Testing

// Goal: what each client can do works over each way that it has: a unix socket, TCP over IPv4 and IPv6, TLS.
// Method: as in RealClientTests; a server listens on all of them at once.

@Suite("Real clients over each transport")
struct MoreClientTests {
  /// A server of `disk` on a unix socket and two TCP ports, where clients may use TLS.
  private struct Place {
    let bench: Bench
    var uris: [String: String] = [:]
    var ports: [String: UInt16] = [:]
    let certificates: String

    /// With `verifyingPeer` TLS takes a client's certificate. A client that cannot be told of certificates has none, and with
    /// libnbd 1.14 trusts any server.
    init(_ disk: MemoryDisk, verifyingPeer: Bool = true) throws {
      let files = try Certificates.shared.get()
      let credentials = try TLSCredentials(certificates: files.directory, verifyingPeer: verifyingPeer)
      bench = try Bench(disk) { $0.tls = TLSSettings(policy: .on, credentials: credentials) }
      uris["unix"] = "nbd+unix:///disk?socket=\(bench.path)"
      certificates = files.directory
      let certified = verifyingPeer ? "tls-certificates=\(certificates)" : ""
      uris["tls"] = "nbds+unix:///disk?socket=\(bench.path)&\(certified)"
      for (name, host) in [("tcp", "127.0.0.1"), ("tcp6", "::1")] {
        let address = try bench.server.listen(on: .tcp(host: host, port: 0), directory: disk)
        guard case .tcp(_, let port) = address else { continue }
        uris[name] = "nbd://\(host.contains(":") ? "[\(host)]" : host):\(port)/disk"
        ports[name] = port
      }
      uris["tcptls"] = "nbds://127.0.0.1:\(ports["tcp"] ?? 0)/disk?\(certified)"
    }

    /// What qemu's tools call the export; with a raw file beside it, if one is given. No URI of theirs says TLS.
    func qemu(_ transport: String, beside file: String? = nil) throws -> [String] {
      guard transport.hasSuffix("tls") else {
        return ["-f", "raw"] + (file.map { ["-F", "raw", $0] } ?? []) + [try #require(uris[transport])]
      }
      let server =
        transport == "tls"
        ? "file.server.type=unix,file.server.path=\(bench.path)"
        : "file.server.type=inet,file.server.host=127.0.0.1,file.server.port=\(ports["tcp"] ?? 0)"
      let image =
        "driver=raw,file.driver=nbd,\(server),file.export=disk,file.tls-creds=tls,file.tls-hostname=localhost"
      return ["--object", "tls-creds-x509,id=tls,endpoint=client,dir=\(certificates)", "--image-opts"]
        + (file.map { ["driver=raw,file.driver=file,file.filename=\($0)"] } ?? []) + [image]
    }
  }

  private static func pattern(_ byteCount: Int) -> [UInt8] {
    (0..<byteCount).map { ($0 >> 15) % 3 == 1 ? 0 : UInt8(truncatingIfNeeded: $0 / 3 &+ $0 >> 11) }
  }

  @Test("nbdinfo, nbdcopy and nbdsh", arguments: ["unix", "tcp", "tcp6", "tls", "tcptls"])
  func libnbd(transport: String) throws {
    let disk = MemoryDisk(byteCount: 4 << 20)
    let place = try Place(disk)
    defer { place.bench.close() }
    let uri = try #require(place.uris[transport])
    let info = try Client.run("nbdinfo", "--json", uri)
    for part in [
      "\"export-size\": 4194304", "\"can_cache\": true", "\"can_fast_zero\": true", "\"can_fua\": true",
      "\"can_multi_conn\": true", "x-test:other", "\"TLS\": \(transport.hasSuffix("tls"))",
    ] { #expect(info.output.contains(part), "\(part) in \(info.output)") }
    let list = try Client.run("nbdinfo", "--list", uri)
    #expect(list.status == 0 && list.output.contains("export=\"disk\""), "\(list.output)")
    let map = try Client.run("nbdinfo", "--map", uri)
    #expect(map.status == 0 && map.output.contains("4194304    3  hole,zero"), "\(map.output)")
    let data = Self.pattern(4 << 20)
    let (source, target) = (place.bench.directory + "/in", place.bench.directory + "/out")
    defer { for file in [source, target] { unlink(file) } }
    try Data(data).write(to: URL(fileURLWithPath: source))
    let copyIn = try Client.run("nbdcopy", "--connections=3", source, uri)
    #expect(copyIn.status == 0, "\(copyIn.output)")
    #expect((disk.content == data) as Bool)
    let copyOut = try Client.run("nbdcopy", "--connections=3", uri, target)
    #expect(copyOut.status == 0, "\(copyOut.output)")
    #expect((try Data(contentsOf: URL(fileURLWithPath: target)) == Data(data)) as Bool)
    let script = """
      h.set_uri_allow_local_file(True); h.add_meta_context("base:allocation"); h.add_meta_context("x-test:other")
      h.connect_uri("\(uri)")
      h.cache(65536, 4096); h.zero(4096, 0, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE); h.trim(512, 8192)
      h.pwrite(b"z" * 100, 3, nbd.CMD_FLAG_FUA); h.flush()
      assert h.pread(200, 0) == bytes(3) + b"z" * 100 + bytes(97)
      chunks = []
      h.pread_structured(131072, 1 << 20, lambda data, offset, *more: chunks.append((offset, len(data))), nbd.CMD_FLAG_DF)
      assert chunks == [(1 << 20, 131072)], chunks
      seen = {}
      h.block_status(1024, 0, lambda name, offset, entries, error: seen.update({name: entries}) or 0)
      assert seen == {"base:allocation": [512, 0, 512, 3], "x-test:other": [512, 8, 512, 7]}, seen
      h.block_status(1024, 0, lambda name, offset, entries, error: seen.update({name: entries}) or 0, nbd.CMD_FLAG_REQ_ONE)
      assert seen == {"base:allocation": [512, 0], "x-test:other": [512, 8]}, seen
      h.shutdown(); print("done")
      """
    let shell = try Client.run("nbdsh", "-c", script)
    #expect(shell.output.split(separator: "\n").last == "done", "\(shell.output)")
    #expect(disk.log.contains("cache 4096"))
  }

  @Test(
    "qemu-img info, map, bench, convert, compare and qemu-io",
    arguments: ["unix", "tcp", "tcp6", "tls", "tcptls"])
  func qemu(transport: String) throws {
    let disk = MemoryDisk(byteCount: 4 << 20)
    disk.content.replaceSubrange(65536..<131072, with: [UInt8](repeating: 1, count: 65536))
    let place = try Place(disk)
    defer { place.bench.close() }
    let target = try place.qemu(transport)
    #expect(try Client.run("qemu-img", ["info"] + target).output.contains("virtual size: 4 MiB"))
    let map = try Client.run("qemu-img", ["map", "--output=json"] + target).output
    let extents = try #require(JSONSerialization.jsonObject(with: Data(map.utf8)) as? [[String: Any]])
    #expect(extents.map { $0["length"] as? Int } == [65536, 65536, (4 << 20) - 131072])
    #expect(extents.map { $0["zero"] as? Bool } == [true, false, true])
    // Its bench takes no credentials.
    for more in transport.hasSuffix("tls") ? [] : [[], ["-w"], ["-w", "--flush-interval=8"]] {
      let bench = try Client.run(
        "qemu-img", ["bench", "-c", "300", "-d", "8", "-s", "4k"] + more + target)
      #expect(bench.status == 0 && bench.output.contains("Run completed"), "\(bench.output)")
    }
    let io = try Client.run(
      "qemu-io",
      [
        "-c", "write -P 0xab -f 4096 65536", "-c", "write -zu 8192 4096", "-c", "read -P 0xab 4096 4096",
        "-c", "read -P 0 8192 4096",
      ] + target)
    #expect(io.status == 0 && !io.output.contains("failed"), "\(io.output)")
    let copy = place.bench.directory + "/copy"
    defer { unlink(copy) }
    let convert = try Client.run("qemu-img", ["convert", "-O", "raw"] + target + [copy])
    #expect(convert.status == 0, "\(convert.output)")
    let besides = try place.qemu(transport, beside: copy)
    let same = try Client.run("qemu-img", ["compare"] + besides)
    #expect(same.status == 0, "\(same.output)")
    disk.content[1 << 20] ^= 1
    let different = try Client.run("qemu-img", ["compare"] + besides)
    #expect(different.status == 1, "\(different.output)")
  }

  @Test("nbd-client lists exports, over TCP, over a unix socket and with TLS")
  func nbdClient() throws {
    let place = try Place(MemoryDisk())
    defer { place.bench.close() }
    let port = try #require(place.ports["tcp"])
    let files = place.certificates
    let secured = [
      "-x", "-certfile", files + "/client-cert.pem", "-keyfile", files + "/client-key.pem", "-cacertfile",
      files + "/ca-cert.pem",
    ]
    for arguments in [
      ["-l", "127.0.0.1", "\(port)"], ["-l", "-unix", place.bench.path],
      ["-l", "127.0.0.1", "\(port)"] + secured,
    ] {
      let list = try Client.run("nbd-client", arguments)
      #expect(list.status == 0 && list.output.contains("disk: a disk in memory"), "\(list.output)")
    }
  }

  @Test("fio reads back over TLS what it wrote", arguments: ["tls", "tcptls"])
  func fio(transport: String) throws {
    let place = try Place(MemoryDisk(byteCount: 4 << 20), verifyingPeer: false)
    defer { place.bench.close() }
    let uri = try #require(place.uris[transport])
    let outcome = try Client.run(
      "fio", "--name=verify", "--ioengine=nbd", "--uri=\(uri)", "--rw=randwrite", "--bsrange=4k-128k",
      "--size=4M", "--iodepth=16", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1",
      "--verify_state_save=0", "--fsync=16")
    #expect(outcome.status == 0, "\(outcome.output)")
  }

  @Test(
    "nbdfuse makes the export a file that is read and written",
    .enabled(if: access("/dev/fuse", R_OK | W_OK) == 0 && getuid() == 0, "FUSE, and root to mount"),
    arguments: ["unix", "tcp", "tls"])
  func nbdfuse(transport: String) throws {
    let disk = MemoryDisk(byteCount: 4 << 20)
    disk.content = Self.pattern(4 << 20)
    let place = try Place(disk, verifyingPeer: false)
    defer { place.bench.close() }
    let folder = place.bench.directory + "/mount"
    mkdir(folder, 0o700)
    let source = place.bench.directory + "/source"
    try Data(disk.content).write(to: URL(fileURLWithPath: source))
    defer {
      unlink(source)
      rmdir(folder)
    }
    let script = """
      { nbdfuse "$0/disk" "$1" || touch "$0.failed"; } & fuse=$!
      until test -e "$0/disk"; do if test -e "$0.failed"; then rm "$0.failed"; exit 1; fi; done
      cmp "$0/disk" "$2" && printf 'written' | dd of="$0/disk" bs=1 seek=1000 conv=notrunc,fsync status=none
      status=$?; umount "$0"; wait $fuse; exit $status
      """
    let outcome = try Client.run("sh", "-c", script, folder, try #require(place.uris[transport]), source)
    #expect(outcome.status == 0, "\(outcome.output)")
    #expect(Array(disk.content[1000..<1007]) == Array("written".utf8))
  }
}
