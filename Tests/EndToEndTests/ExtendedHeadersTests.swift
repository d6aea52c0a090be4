import Peers
import TestKit
import Testing

extension EndToEnd {
  /// Goal: extended headers mean on the wire what their text says, not only to who wrote the server.
  /// Method: a client of its own (ExtendedClient) against the real daemon, on disks that 32 bits cannot span.
  @Suite("extended headers")
  struct ExtendedHeadersTests {
    let directory: TemporaryDirectory
    let daemon: SpillwayDaemon

    init() throws {
      directory = try TemporaryDirectory()
      daemon = try SpillwayDaemon(
        journal: directory.file("journal"), disks: ["vda=64G", "small=1M"], in: directory)
    }

    @Test("carry requests and extents of more than 4 GiB")
    func large() throws {
      try ExtendedClient.run(
        """
        GIB = 1 << 30
        one = Client(paths[0], "vda", ["base:allocation"])
        assert one.size == 64 * GIB
        assert one.status(0, 64 * GIB) == {"base:allocation": [(64 * GIB, 3)]}
        data = random.Random(5).randbytes(65536)
        # The low 32 bits of the places are those of other places.
        one.write(5 * GIB + 512, data); one.write(9 * GIB + 512, data[::-1])
        assert one.read(5 * GIB + 512, 65536) == data
        assert one.read(1 * GIB, 65536) == bytes(65536)
        assert one.read(5 * GIB, 1024, DF) == bytes(512) + data[:512]
        assert one.status(0, 64 * GIB)["base:allocation"] == [
            (5 * GIB + 512, 3), (65536, 0), (4 * GIB - 65536, 3), (65536, 0), (55 * GIB - 65536 - 512, 3)]
        one.succeed(ZEROES, 4 * GIB, 5 * GIB + 1024, NO_HOLE | FAST_ZERO)
        assert one.read(5 * GIB, 65536) == bytes(65536)
        assert one.read(9 * GIB, 2048) == bytes(1024) + data[::-1][512:1536]
        assert one.status(0, 64 * GIB)["base:allocation"] == [
            (4 * GIB, 3), (5 * GIB + 1024, 2), (65536 - 512, 0), (55 * GIB - 65536 - 512, 3)]
        assert one.status(4 * GIB + 512, 5 * GIB, REQ_ONE)["base:allocation"] == [(5 * GIB, 2)]
        one.succeed(TRIM, 3 * GIB, 61 * GIB, FUA)
        assert one.status(0, 64 * GIB) == {"base:allocation": [(64 * GIB, 3)]}
        one.succeed(CACHE, 0, 64 * GIB); one.succeed(FLUSH, 0, 0)
        """, daemon.ingestSocket)
      try daemon.shutDown()
    }

    @Test("filter contexts by a payload, and refuse what is not one")
    func filter() throws {
      try ExtendedClient.run(
        """
        names = ["base:allocation", "x-spillway:state"]
        Client(paths[0], "small").write(0, b"x" * 4096)
        view = Client(paths[1], "small@live", names)
        assert sorted(view.contexts) == names and view.flags >> 12 & 1, "BLOCK_STATUS_PAYLOAD"
        assert not Client(paths[1], "small@live").flags >> 12 & 1, "only with contexts"
        both = {"base:allocation": [(1 << 20, 0)], "x-spillway:state": [(4096, 0), ((1 << 20) - 4096, 2)]}
        assert view.status(0, 1 << 20) == both
        for name in names: assert view.status(0, 1 << 20, only=[name]) == {name: both[name]}
        assert view.status(0, 1 << 20, only=names) == both
        assert view.status(0, 1 << 20, REQ_ONE, only=names[1:]) == {names[1]: [(4096, 0)]}
        identity = struct.pack(">I", view.contexts[names[0]])
        effect = struct.pack(">Q", 4096)
        other = struct.pack(">I", next(one for one in range(9) if one not in view.contexts.values()))
        for payload in [effect + identity * 2, effect + other, effect[:4], effect + identity[:3],
                        struct.pack(">Q", 2 << 20) + identity, struct.pack(">Q", 1 << 63) + identity]:
            assert view.error(STATUS, 0, len(payload), PAYLOAD_LEN, payload) == EINVAL, payload
        assert view.status(0, 1 << 20) == both, "still in step"
        """, daemon.ingestSocket, daemon.viewSocket)
      try daemon.shutDown()
    }

    @Test("leave the connection in step when a request is refused, and end it when it cannot be")
    func refusals() throws {
      try ExtendedClient.run(
        """
        one = Client(paths[0], "small")
        one.write(0, b"y" * 512)
        # Without the flag there is no payload: the next bytes are a request.
        assert one.error(WRITE, 0, 4096) == EINVAL
        assert one.error(READ, 0, 512, PAYLOAD_LEN, b"z" * 512) == EINVAL
        assert one.error(TRIM, 0, 512, PAYLOAD_LEN, b"z" * 512) == EINVAL
        assert one.error(WRITE, (1 << 20) - 512, 1024, PAYLOAD_LEN, b"z" * 1024) == ENOSPC
        assert one.error(ZEROES, 512, 1 << 20) == ENOSPC
        assert one.error(READ, 1 << 63, 1 << 63) == EINVAL
        assert one.error(TRIM, (1 << 64) - 512, 1024) == EINVAL
        assert one.error(STATUS, 0, 512) == EINVAL, "no context was agreed on"
        assert one.error(42, 0, 512) == EINVAL
        assert one.read(0, 1024) == b"y" * 512 + bytes(512)
        large = Client(paths[0], "vda")
        assert large.error(READ, 0, 5 << 30) == EOVERFLOW
        view = Client(paths[1], "small@live")
        assert view.error(WRITE, 0, 512, PAYLOAD_LEN, b"z" * 512) == EPERM
        assert view.read(0, 512) == b"y" * 512
        # Compact requests, and a payload that is beyond all measure.
        for client, bytes_ in [(one, struct.pack(">IHHQQI", 0x25609513, 0, READ, 1, 0, 512)),
                               (large, struct.pack(">IHHQQQ", 0x21e41c71, PAYLOAD_LEN, WRITE, 1, 0, 1 << 40))]:
            client.socket.sendall(bytes_)
            assert client.is_hung_up()
        """, daemon.ingestSocket, daemon.viewSocket)
      try daemon.shutDown()
    }

    @Test("are kept once they are agreed on")
    func negotiation() throws {
      try ExtendedClient.run(
        """
        class Haggler(Client):
            "Stops before the export is chosen."
            def option(self, code, data=b""):
                if code == GO and not self.is_free: return [(3, struct.pack(">HQH", 0, 0, 0)), (1, b"")]
                return super().option(code, data)
            is_free = False
        one = Haggler(paths[0], "small")
        assert one.option(STRUCTURED_REPLY)[0][0] == (1 << 31) + 10, "EXT_HEADER_REQD"
        assert one.option(EXTENDED_HEADERS, b"x")[0][0] == (1 << 31) + 3, "data: INVALID"
        one.is_free = True
        assert one.option(GO, struct.pack(">I5sH", 5, b"small", 0))[-1] == (1, b"")
        one.write(0, b"x" * 512)
        assert one.read(0, 512) == b"x" * 512
        # After structured replies they are more than those.
        two = Haggler(paths[0], "small", extended=False)
        two.is_free = True
        assert two.option(STRUCTURED_REPLY) == [(1, b"")] and two.option(EXTENDED_HEADERS) == [(1, b"")]
        assert two.option(GO, struct.pack(">I5sH", 5, b"small", 0))[-1] == (1, b"")
        assert two.read(0, 512) == b"x" * 512
        two.send(DISC, 0, 0)
        assert two.is_hung_up()
        """, daemon.ingestSocket)
      try daemon.shutDown()
    }
  }
}
