import Foundation
import Peers
import TestKit
import Testing

extension EndToEnd {
  /// Goal: at whatever point the daemon is killed, every byte that it has acknowledged is there afterwards.
  /// Method: four clients write, zero and trim, each in a part of its own and all in a shared one, and know for each
  /// sector which values it may have. The daemon kills itself at a named stage (a debug build's failpoints), or is
  /// killed at a random instant; the next one takes over, and the clients compare before they go on. A cycle counts if
  /// something acknowledged was in the spool alone when the daemon died.
  @Suite("a daemon that is killed under four writers")
  struct KillTests {
    let directory: TemporaryDirectory
    let seed = EndToEnd.seed()
    let clients: ChildProcess
    private let end: String
    private let daemonArguments: [String]

    init() throws {
      directory = try TemporaryDirectory()
      let spool = directory.file("spool")
      try FileManager.default.createDirectory(atPath: spool, withIntermediateDirectories: true)
      daemonArguments = ["--spool-dir", spool, "--spool-size", "16M"]
      end = directory.file("end")
      clients = try KillWriters.start(
        uri: "nbd+unix:///vda?socket=\(directory.file("ingest.sock"))", seed: seed, end: end)
    }

    private func start(failpoint: String? = nil) throws -> SpillwayDaemon {
      try SpillwayDaemon(
        journal: directory.file("journal"), disks: ["vda=4G"], in: directory, daemonArguments,
        environment: failpoint.map { ["SPILLWAY_FAILPOINT": $0] } ?? [:])
    }

    /// Whether the daemon found acknowledged writes that were nowhere but in the spool.
    private func tookOver(_ daemon: SpillwayDaemon) -> Bool {
      daemon.child.errorLines.contains { $0.contains("took over") }
    }

    /// Lets the clients compare a last time and expects that they are content.
    private func finish(_ daemon: SpillwayDaemon) throws {
      #expect(FileManager.default.createFile(atPath: end, contents: nil))
      try clients.finish(within: .seconds(120)).succeeded()
      try daemon.shutDown()
    }

    // What kills while the clients work, and how often it is passed before. The clients flush often enough to get it all.
    private static let working = [
      "recordFilled:300", "recordTrue:300", "batchTaken:2", "batchPacked:3", "groupHalfWritten:2",
      "groupWritten:3",
      "publishing:20", "batchPublished:3", "ringRetired:2", "syncBegun:2", "synced:3",
    ]
    // What a shutdown passes; the superblock is replaced when the journal is opened, too.
    private static let closing = [
      "indexBegun:1", "indexSliceCommitted:1", "indexCommitted:1", "closeCommitted:1", "superblockWritten:2",
      "superblockReplaced:2", "closeMarked:1",
    ]
    private static let opening = ["superblockWritten:1", "superblockReplaced:1"]

    @Test("at every stage of a record's way, of the index and of an orderly end, loses nothing acknowledged")
    func stages() throws {
      var cycle = 0
      var counted = 0
      // The disk is made first: that passes most of the stages as well.
      try killAtWork(cycle)
      cycle += 1
      for failpoint in Self.working + Self.closing + Self.opening {
        if Self.opening.contains(failpoint) {
          // Dead before it is ready, over the spool of the one before.
          try killAtWork(cycle)
          cycle += 1
        }
        cycle += try dies(at: failpoint, cycle) ? 1 : 0
        let next = try start()
        try clients.waitForErrorLine(containing: "compared \(cycle).", within: .seconds(120))
        cycle += 1
        let isCounted = tookOver(next)
        print("\(failpoint): \(isCounted ? "with" : "without") writes that were in the spool alone")
        counted += isCounted ? 1 : 0
        next.kill()
      }
      print(
        "\(counted) of \(Self.working.count + Self.closing.count + Self.opening.count) stages with unspilled writes"
      )
      #expect(counted >= Self.working.count - 2)
      try finish(start())
    }

    @Test("at random instants loses nothing acknowledged")
    func randomInstants() throws {
      let wanted = ProcessInfo.processInfo.environment["SPILLWAY_TEST_KILLS"].flatMap { Int($0) } ?? 5
      var random = SeededGenerator(seed: seed)
      var counted = 0
      var cycle = 0
      while counted < wanted, cycle < 3 * wanted + 10 {
        let daemon = try start()
        if cycle > 0, tookOver(daemon) { counted += 1 }
        let rounds = Int.random(in: 1...12, using: &random)
        try clients.waitForErrorLine(containing: "round \(cycle + 1).\(rounds).", within: .seconds(120))
        daemon.kill()
        cycle += 1
      }
      print("\(cycle) kills, \(counted) of them with acknowledged writes that were in the spool alone")
      #expect(counted >= wanted)
      try finish(start())
    }

    /// Runs a daemon that kills itself at `failpoint`. Whether the clients could compare before.
    private func dies(at failpoint: String, _ cycle: Int) throws -> Bool {
      let daemon: SpillwayDaemon
      do {
        daemon = try start(failpoint: failpoint)
      } catch is PeerError {
        // It was on the way to being ready: recovery publishes batches as well.
        #expect(Self.opening.contains(failpoint) || failpoint.hasPrefix("publishing"), "\(failpoint)")
        return false
      }
      try clients.waitForErrorLine(containing: "compared \(cycle).", within: .seconds(120))
      if Self.closing.contains(failpoint) {
        try clients.waitForErrorLine(containing: "round \(cycle + 1).3.", within: .seconds(120))
        _ = try Spillway.run(["ctl", "-j", directory.file("journal"), "shutdown"])
      }
      let how = try daemon.child.finish(within: .seconds(60)).status
      // An index commit has slices when it is large enough.
      #expect(how == .killed(signal: SIGKILL) || failpoint.hasPrefix("indexSlice"), "\(failpoint): \(how)")
      return true
    }

    /// Runs a daemon without failpoint for a while and kills it.
    private func killAtWork(_ cycle: Int) throws {
      let daemon = try start()
      try clients.waitForErrorLine(containing: "round \(cycle + 1).2.", within: .seconds(120))
      daemon.kill()
    }
  }
}

/// Four clients of one export in one Python process, and what they know of it.
enum KillWriters {
  static func start(uri: String, seed: UInt64, end: String) throws -> ChildProcess {
    try LibNBD.startUnconnected(script, uri, "\(seed)", end)
  }

  // Each sector has a list of values that it may hold: a value leaves it when a later request, begun after the value was
  // answered, is answered itself. What was never answered may be there or not; after a comparison only what was found is.
  // It says "compared N." after the N-th connection, and "round N.M." after each fifty answers since.
  private static let script = """
    import select, time
    random.seed(int(uris[1])); end = uris[2]
    writers = 4; part = 4096                     # sectors
    total = (writers + 1) * part
    candidates = [[(0, -1, -1)] for _ in range(total)]
    now = 0; number = 0
    def content(number, sector):
        return (number.to_bytes(8, "big") + sector.to_bytes(8, "big")) * 32 if number else bytes(512)
    def connect_all():
        deadline = time.monotonic() + 120
        while True:
            try: return [connect(uris[0]) for _ in range(writers)]
            except nbd.Error:
                # Nobody listens: the daemon is on its way. Its coming cannot be waited for in any other way.
                if time.monotonic() > deadline: raise
                time.sleep(0.005)
    def compare(h):
        for start in range(0, total, 2048):
            data = bytes(h.pread(2048 * 512, start * 512))
            for sector in range(start, start + 2048):
                found = data[(sector - start) * 512:(sector - start + 1) * 512]
                value = int.from_bytes(found[:8], "big")
                allowed = {one[0] for one in candidates[sector]}
                assert value in allowed, (sector, value, candidates[sector])
                assert found == content(value, sector), (sector, value)
                candidates[sector] = [(value, -1, -1)]
    def request(writer):
        home = writer if random.random() < 0.7 else writers
        count = random.choice([1, 1, 8, 8, 33, 128, 512])
        start = home * part + random.randrange(part - count)
        kind = random.choices(["write", "zero", "trim", "flush", "fua", "ocean"], [120, 25, 20, 3, 4, 1])[0]
        return kind, start, count
    def send(h, kind, start, count):
        global number
        number += 1
        if kind == "flush": return h.aio_flush(), None
        # More rows of the index than one transaction takes.
        if kind == "ocean": return h.aio_zero(1280 << 20, 1 << 30, flags=nbd.CMD_FLAG_NO_HOLE), None
        if kind == "zero": return h.aio_zero(count * 512, start * 512), 0
        if kind == "trim": return h.aio_trim(count * 512, start * 512), 0
        data = b"".join(content(number, sector) for sector in range(start, start + count))
        flags = nbd.CMD_FLAG_FUA if kind == "fua" else 0
        return h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), start * 512, flags=flags), number
    class Sent:
        pass
    def begin(h, writer):
        global now
        one = Sent(); now += 1
        one.kind, one.start, one.count = request(writer)
        one.begin = now
        # It may be there from now on, whatever becomes of the request.
        value = 0 if one.kind in ("zero", "trim") else number + 1
        one.value = None if one.kind in ("flush", "ocean") else value
        if one.value is not None:
            for sector in range(one.start, one.start + one.count):
                candidates[sector].append((one.value, one.begin, None))
        one.cookie, _ = send(h, one.kind, one.start, one.count)
        return one
    def answered(one):
        global now
        now += 1
        if one.value is None: return
        for sector in range(one.start, one.start + one.count):
            candidates[sector] = [
                (value, begun, now if begun == one.begin else ended)
                for value, begun, ended in candidates[sector]
                if ended is None or ended > one.begin]
    def work(handles, connection):
        answers = 0
        flight = [[] for _ in handles]
        while not os.path.exists(end):
            for writer, h in enumerate(handles):
                while len(flight[writer]) < 2: flight[writer].append(begin(h, writer))
            poller = select.poll(); owners = {}
            for h in handles:
                ways = h.aio_get_direction()
                events = (select.POLLIN if ways & 1 else 0) | (select.POLLOUT if ways & 2 else 0)
                poller.register(h.aio_get_fd(), events); owners[h.aio_get_fd()] = h
            ready = poller.poll(60000)
            assert ready, "no answer in a minute"
            for descriptor, events in ready:
                h = owners[descriptor]
                if events & select.POLLOUT and h.aio_get_direction() & 2: h.aio_notify_write()
                else: h.aio_notify_read()
            for writer, h in enumerate(handles):
                for one in list(flight[writer]):
                    if h.aio_command_completed(one.cookie):
                        flight[writer].remove(one); answered(one); answers += 1
                        if answers % 50 == 0: tell("round %d.%d." % (connection, answers // 50))
    connection = 0
    while True:
        handles = connect_all()
        try:
            compare(handles[0])
        except nbd.Error:
            continue        # It died again before it could be asked.
        tell("compared %d." % connection)
        connection += 1
        if os.path.exists(end): break
        try:
            work(handles, connection)
        except nbd.Error:
            pass
        if os.path.exists(end):
            # Told to end, with the last daemon there.
            del handles
            compare(connect_all()[0]); break
        del handles
    """
}
