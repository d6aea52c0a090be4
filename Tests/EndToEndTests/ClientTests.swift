import TestKit
import Foundation
import Glibc
import Peers
import QEMUMonitor
import Testing

extension EndToEnd {
  /// Clients of other makers, each as its users call it.
  @Suite("a client")
  struct ClientTests {
    let directory: TemporaryDirectory
    let journal: String

    init() throws {
      directory = try TemporaryDirectory()
      journal = directory.file("journal")
    }

    @Test("nbdinfo sees exports, sizes and what is allocated")
    func allocation() throws {
      let daemon = try SpillwayDaemon(journal: journal, disks: ["vda=8M"], in: directory)
      #expect(try Program.nbdinfo.run(["--size", daemon.ingestURI("vda")]).outputText == "8388608\n")
      #expect(try Program.nbdinfo.run(["--size", daemon.viewURI("")]).outputText == "8388608\n")
      #expect(try nbdinfo("--is", "read-only", daemon.viewURI("vda@live")) == .exited(0))
      #expect(try nbdinfo("--is", "read-only", daemon.ingestURI("vda")) == .exited(2))
      for ability in ["flush", "fua", "zero", "trim", "multi-conn", "df"] {
        #expect(try nbdinfo("--can", ability, daemon.ingestURI("vda")) == .exited(0), "\(ability)")
      }
      #expect(try nbdinfo("--size", daemon.viewURI("vda")) != .exited(0), "views only on the view socket")

      // What was never written is a hole to who writes, and something to wait for to who reads.
      let all = 8 << 20
      #expect(try map(daemon.ingestURI("vda")) == [Extent(0, all, Extent.hole)])
      #expect(try map(daemon.viewURI("vda@live")) == [Extent(0, all, Extent.data)])
      #expect(try !daemon.status().isComplete("vda"), "a mere probe completes nothing")

      try LibNBD.run(
        """
        h.pwrite(b"x" * 65536, 1 << 20)
        h.zero(1 << 20, 4 << 20, nbd.CMD_FLAG_NO_HOLE)
        h.shutdown()
        """, daemon.ingestURI("vda"))
      try daemon.waitForStatus("complete after NBD_CMD_DISC") { $0.isComplete("vda") }
      let expected = [
        Extent(0, 1 << 20, Extent.hole), Extent(1 << 20, 65536, Extent.data),
        Extent((1 << 20) + 65536, all - (1 << 20) - 65536, Extent.hole),
      ]
      #expect(try map(daemon.viewURI("vda@live")) == expected)
      // Who asked for provisioned zeroes finds them so.
      #expect(
        try map(daemon.ingestURI("vda"))
          == expected.dropLast() + [
            Extent((1 << 20) + 65536, (3 << 20) - 65536, Extent.hole), Extent(4 << 20, 1 << 20, Extent.zero),
            Extent(5 << 20, all - (5 << 20), Extent.hole),
          ])
      try daemon.shutDown()
    }

    // The second read of the view is answered while the first still waits, which shows that the first does wait
    // and that it holds nobody up: no clock is needed.
    @Test("libnbd reads wait for what has not arrived, and later ones overtake them")
    func parkedRead() throws {
      let daemon = try SpillwayDaemon(journal: journal, disks: ["vda=8M"], in: directory)
      try LibNBD.run(
        """
        view = nbd.NBD(); view.connect_uri(uris[1])
        assert view.is_read_only()
        early = bytes(range(256)) * 16
        h.pwrite(early, 0)
        buffer = nbd.Buffer(65536)
        parked = view.aio_pread(buffer, 1 << 20)
        assert view.pread(4096, 0) == early
        assert not view.aio_command_completed(parked)
        late = os.urandom(65536)
        h.pwrite(late[:32768], 1 << 20)
        assert view.pread(4096, 0) == early
        assert not view.aio_command_completed(parked)
        h.pwrite(late[32768:], (1 << 20) + 32768)
        while not view.aio_command_completed(parked): view.poll(-1)
        assert buffer.to_bytearray() == late
        """, daemon.ingestURI("vda"), daemon.viewURI("vda@live"))
      #expect(try daemon.status().waitedReads >= 1)
      try daemon.shutDown()
    }

    @Test("libnbd may write any bytes of a device disk, and nothing through a view")
    func anyBytes() throws {
      let daemon = try SpillwayDaemon(journal: journal, disks: ["vda=8M"], in: directory)
      try LibNBD.run(
        """
        model = bytearray(8 << 20)
        random.seed(7)
        def write(at, data):
            h.pwrite(data, at, random.choice([0, nbd.CMD_FLAG_FUA])); model[at:at + len(data)] = data
        for turn in range(300):
            at = random.randrange(0, (8 << 20) - 200000)
            n = random.choice([1, 511, 512, 513, 4096, 65537, 131072])
            action = random.randrange(4)
            if action < 2: write(at, random.randbytes(n))
            elif action == 2: h.zero(n, at); model[at:at + n] = bytes(n)
            else: h.flush()
        for at in range(0, 8 << 20, 1 << 20):
            assert h.pread(1 << 20, at) == model[at:at + (1 << 20)], at
        view = nbd.NBD(); view.set_strict_mode(0); view.connect_uri(uris[1])
        for attempt in [lambda: view.pwrite(b"x" * 512, 0), lambda: view.zero(512, 0)]:
            try: attempt(); assert False, "a view was written to"
            except nbd.Error as error: assert error.errno == "EPERM", error
        h.shutdown()
        for at in range(0, 8 << 20, 1 << 20):
            assert view.pread(1 << 20, at) == model[at:at + (1 << 20)], at
        """, daemon.ingestURI("vda"), daemon.viewURI("vda@live"))
      try daemon.shutDown()
    }

    @Test("what is trimmed on a device disk is a hole that reads as zeroes, before and after a restart")
    func trim() throws {
      var daemon = try SpillwayDaemon(journal: journal, disks: ["vda=8M"], in: directory)
      let all = 8 << 20
      try LibNBD.run(
        """
        h.pwrite(b"x" * (8 << 20), 0)
        h.flush()
        h.trim(1 << 20, 2 << 20)
        h.trim(65536, 6 << 20, nbd.CMD_FLAG_FUA)
        view = connect(uris[1])
        for reader in [h, view]:
            assert reader.pread(3 << 20, 1 << 20) == b"x" * (1 << 20) + bytes(1 << 20) + b"x" * (1 << 20)
        # Written again it is data again.
        h.pwrite(b"y" * 4096, (2 << 20) + 8192)
        h.shutdown()
        """, daemon.ingestURI("vda"), daemon.viewURI("vda@live"))
      let island = (2 << 20) + 8192
      let expected = [
        Extent(0, 2 << 20, Extent.data), Extent(2 << 20, 8192, Extent.hole),
        Extent(island, 4096, Extent.data), Extent(island + 4096, (1 << 20) - 12288, Extent.hole),
        Extent(3 << 20, 3 << 20, Extent.data), Extent(6 << 20, 65536, Extent.hole),
        Extent((6 << 20) + 65536, all - (6 << 20) - 65536, Extent.data),
      ]
      for isRestarted in [false, true] {
        if isRestarted {
          try daemon.shutDown()
          daemon = try SpillwayDaemon(journal: journal, disks: [], in: directory)
        }
        #expect(try map(daemon.ingestURI("vda")) == expected)
        #expect(try map(daemon.viewURI("vda@live")) == expected)
        try LibNBD.run(
          "assert h.pread(12288, 2 << 20) == bytes(8192) + b'y' * 4096", daemon.viewURI("vda@live"))
      }
      let replayed = directory.file("replayed.raw")
      try Spillway.replay(journal, "vda", to: replayed)
      #expect(DiskUsage.bytes(of: replayed) < UInt64(all) - (1 << 20), "a trimmed part takes no room")
      try daemon.shutDown()
    }

    @Test("qemu-img and nbdcopy find what qemu-img wrote")
    func qemuImg() throws {
      let source = directory.file("source.raw")
      let image = try PatternedImage(at: source, byteCount: 64 << 20, seed: 0x1e)
      let daemon = try SpillwayDaemon(journal: journal, disks: ["vda=\(image.byteCount)"], in: directory)
      try Program.qemuImg.run(["convert", "-n", "-f", "raw", "-O", "raw", source, daemon.ingestURI("vda")])
      for uri in [daemon.ingestURI("vda"), daemon.viewURI("vda@live")] {
        try Program.qemuImg.run(["compare", "-f", "raw", "-F", "raw", source, uri])
        let copy = directory.file("copy.raw")
        try Program.nbdcopy.run([uri, copy])
        try EndToEnd.expectIdentical(source, copy)
      }
      try daemon.shutDown()
    }

    @Test("fio reads back what it wrote, over a unix socket and over TCP", arguments: ["unix", "tcp"])
    func fio(_ transport: String) throws {
      let port = try freePort()
      let daemon = try SpillwayDaemon(
        journal: journal, disks: ["vda=64M"], in: directory, ["--listen", "tcp:127.0.0.1:\(port)"])
      let uri = transport == "unix" ? daemon.ingestURI("vda") : "nbd://127.0.0.1:\(port)/vda"
      try Program.fio.run([
        "--name=verify", "--ioengine=nbd", "--uri=\(uri)", "--rw=randwrite", "--bsrange=4k-128k",
        "--size=64M",
        "--iodepth=16", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--verify_state_save=0",
        "--randseed=4", "--fsync=64",
      ])
      try daemon.shutDown()
    }

    private func nbdinfo(_ arguments: String...) throws -> ProcessEnd {
      try Program.nbdinfo.start(arguments).finish().status
    }

    private func map(_ uri: String) throws -> [Extent] {
      let json = try Program.nbdinfo.run(["--map", "--json", uri]).output
      return try JSONDecoder().decode([Extent].self, from: Data(json))
    }
  }
}

/// An extent as `nbdinfo --map --json` tells it.
private struct Extent: Decodable, Equatable {
  static let data = 0
  static let zero = 2
  static let hole = 3

  var offset: Int
  var length: Int
  var type: Int

  init(_ offset: Int, _ length: Int, _ type: Int) {
    (self.offset, self.length, self.type) = (offset, length, type)
  }
}

/// A TCP port that was free a moment ago.
private func freePort() throws -> UInt16 {
  let probe = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
  defer { close(probe) }
  var address = sockaddr_in()
  address.sin_family = sa_family_t(AF_INET)
  address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
  var length = socklen_t(MemoryLayout<sockaddr_in>.size)
  let code = withUnsafeMutablePointer(to: &address) { pointer in
    pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
      bind(probe, $0, length) == 0 ? getsockname(probe, $0, &length) : -1
    }
  }
  guard code == 0 else { throw PeerError("no free port: \(String(cString: strerror(errno)))") }
  return UInt16(bigEndian: address.sin_port)
}
