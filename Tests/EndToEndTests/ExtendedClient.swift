import Peers

/// A client of extended headers on bare sockets, in Python: no client of Debian 12 has them. It is written from
/// `doc/proto.md` of the branch `extension-ext-header`, shares no line with the server's codec, and checks of each reply
/// all that the protocol promises.
///
/// Scripts find `Client`, the sockets' paths in `paths`, and the numbers of the protocol under the names it gives them.
enum ExtendedClient {
  private static let program = """
    import os, random, socket, struct, sys
    paths = sys.argv[1:]
    ABORT, STRUCTURED_REPLY, LIST_META, SET_META, EXTENDED_HEADERS, GO = 2, 8, 9, 10, 11, 7
    READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS = range(8)
    FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD_LEN = 1, 2, 4, 8, 16, 32
    NONE, DATA, HOLE, STATUS_32, STATUS_64, ERROR, ERROR_OFFSET = 0, 1, 2, 5, 6, 0x8001, 0x8002
    EPERM, EINVAL, ENOSPC, EOVERFLOW = 1, 22, 28, 75

    class Client:
        def __init__(self, path, export, contexts=(), extended=True):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(60)
            self.socket.connect(path)
            magic, options, flags = struct.unpack(">8s8sH", self.take(18))
            assert (magic, options, flags) == (b"NBDMAGIC", b"IHAVEOPT", 3), (magic, options, flags)
            self.socket.sendall(struct.pack(">I", 3))
            self.next_cookie = random.getrandbits(64)
            if extended: assert self.option(EXTENDED_HEADERS) == [(1, b"")]
            name = export.encode()
            named = struct.pack(">I", len(name)) + name
            self.contexts = {}
            if contexts:
                queries = b"".join(struct.pack(">I", len(one)) + one.encode() for one in contexts)
                for kind, data in self.option(SET_META, named + struct.pack(">I", len(contexts)) + queries)[:-1]:
                    assert kind == 4, kind
                    self.contexts[data[4:].decode()] = struct.unpack(">I", data[:4])[0]
            self.infos = {}
            for kind, data in self.option(GO, named + struct.pack(">H", 0))[:-1]:
                assert kind == 3, kind
                self.infos[struct.unpack(">H", data[:2])[0]] = data[2:]
            self.size, self.flags = struct.unpack(">QH", self.infos[0])

        def take(self, count):
            data = bytearray()
            while len(data) < count:
                part = self.socket.recv(count - len(data))
                if not part: raise EOFError("the server hung up")
                data += part
            return bytes(data)

        def option(self, code, data=b""):
            "Its replies as (type, data), the last of which is an acknowledgement or an error."
            self.socket.sendall(struct.pack(">8sII", b"IHAVEOPT", code, len(data)) + data)
            replies = []
            while True:
                magic, echo, kind, length = struct.unpack(">QIII", self.take(20))
                assert (magic, echo) == (0x3e889045565a9, code), (hex(magic), echo)
                replies.append((kind, self.take(length)))
                if kind == 1 or kind >> 31: return replies

        def send(self, command, offset, length, flags=0, payload=b""):
            self.next_cookie = (self.next_cookie + 1) % (1 << 64)
            header = struct.pack(">IHHQQQ", 0x21e41c71, flags, command, self.next_cookie, offset, length)
            assert len(header) == 32
            self.socket.sendall(header + payload)
            return self.next_cookie

        def chunk(self, cookie, offset):
            "The next chunk of a reply, as (type, content, whether it is the last)."
            magic, flags, kind, echo, place, length = struct.unpack(">IHHQQQ", self.take(32))
            assert magic == 0x6e8a278c, hex(magic)
            assert flags in (0, 1) and echo == cookie and place == offset, (flags, echo, place)
            return kind, self.take(length), flags == 1

        def call(self, command, offset, length, flags=0, payload=b""):
            "Sends a request and returns the chunks of its reply."
            cookie = self.send(command, offset, length, flags, payload)
            chunks, last = [], False
            while not last:
                kind, content, last = self.chunk(cookie, offset)
                chunks.append((kind, content))
            return chunks

        def error(self, *request, **more):
            "The error with which a request fails, alone in its reply and with words."
            (kind, content), = self.call(*request, **more)
            assert kind in (ERROR, ERROR_OFFSET), kind
            code, length = struct.unpack(">IH", content[:6])
            assert length > 0 and content[6:6 + length].decode()
            return code

        def succeed(self, *request, **more):
            assert self.call(*request, **more) == [(NONE, b"")]

        def write(self, offset, data, flags=0):
            self.succeed(WRITE, offset, len(data), flags | PAYLOAD_LEN, data)

        def read(self, offset, length, flags=0):
            data, end = b"", offset
            for kind, content in self.call(READ, offset, length, flags):
                start, = struct.unpack(">Q", content[:8])
                assert start == end, "chunks out of order, with gaps or overlaps"
                if kind == HOLE: part = bytes(struct.unpack(">I", content[8:])[0])
                else:
                    assert kind == DATA, kind
                    part = content[8:]
                assert part
                data += part; end += len(part)
            assert len(data) == length
            return data

        def status(self, offset, length, flags=0, only=None):
            "Extents as (length, flags) by the context's name; with a payload only those of the names in `only`."
            payload = b""
            if only is not None:
                ids = [self.contexts.get(one, one) for one in only]
                payload = struct.pack(">Q", length) + b"".join(struct.pack(">I", one) for one in ids)
                chunks = self.call(STATUS, offset, len(payload), flags | PAYLOAD_LEN, payload)
            else: chunks = self.call(STATUS, offset, length, flags)
            seen = {}
            names = {number: name for name, number in self.contexts.items()}
            for kind, content in chunks:
                if (kind, content) == (NONE, b""): continue
                assert kind == STATUS_64, kind
                number, count = struct.unpack(">II", content[:8])
                extents = [struct.unpack_from(">QQ", content, 8 + 16 * index) for index in range(count)]
                assert len(content) == 8 + 16 * count and count >= 1 and all(one[0] > 0 for one in extents)
                assert sum(one[0] for one in extents[:-1]) < length
                assert sum(one[0] for one in extents) <= self.size - offset
                assert names[number] not in seen
                seen[names[number]] = extents
            return seen

        def is_hung_up(self):
            try: return self.socket.recv(1) == b""
            except ConnectionResetError: return True

    """

  /// Runs `script` to its end and expects success.
  static func run(_ script: String, _ paths: String...) throws {
    try Program.python.run(["-c", program + script] + paths, within: .seconds(240))
  }
}
