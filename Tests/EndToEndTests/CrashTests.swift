import TestKit
import Foundation
import Peers
import Testing

extension EndToEnd {
  /// Goal: what was acknowledged survives the death of the daemon, what was flushed survives that of its spool.
  /// Method: real kills, in the middle of what a client does that comes back and sends again, as qemu does.
  @Suite("a daemon that is killed")
  struct CrashTests {
    let directory: TemporaryDirectory
    let journal: String
    let spool: String

    init() throws {
      directory = try TemporaryDirectory()
      journal = directory.file("journal")
      spool = directory.file("spool")
      try FileManager.default.createDirectory(atPath: spool, withIntermediateDirectories: true)
    }

    private func arguments(_ disk: String) -> [String] {
      ["serve", "-j", journal, "--disk", disk, "--spool-dir", spool]
    }

    private func start(_ disk: String, _ more: String...) throws -> SpillwayDaemon {
      try SpillwayDaemon(journal: journal, disks: [disk], in: directory, ["--spool-dir", spool] + more)
    }

    // No power is cut here: that the spool is gone is what a power loss leaves of it.
    @Test(
      "and whose spool is gone starts only when the loss is accepted, and has what was flushed",
      arguments: ["device", "snapshot"])
    func lostSpool(mode: String) throws {
      let disk = "vda=4M,mode=\(mode)"
      let daemon = try start(disk)
      try LibNBD.run(
        """
        h.pwrite(b"a" * 131072, 0)
        h.zero(65536, 1 << 20, nbd.CMD_FLAG_NO_HOLE)
        h.flush()
        h.pwrite(b"b" * 65536, 2 << 20, nbd.CMD_FLAG_FUA)
        h.pwrite(b"c" * 512, 3 << 20)
        os.kill(int(uris[1]), signal.SIGKILL)
        """, daemon.ingestURI("vda"), "\(daemon.child.processID)")
      _ = try daemon.child.finish()
      let rings = try FileManager.default.contentsOfDirectory(atPath: spool)
      try #require(rings.count == 1)
      try FileManager.default.removeItem(atPath: "\(spool)/\(rings[0])")

      let refused = try Spillway.run(arguments(disk))
      #expect(refused.status == .exited(3))
      #expect(refused.errorLines.count == 1, "\(refused.errorLines)")
      #expect(refused.errorLines.first?.contains("--accept-loss") == true, "\(refused.errorLines)")
      let output = directory.file("output.raw")
      #expect(try Spillway.run(["replay", "-j", journal, "vda", output]).status == .exited(3))

      let next = try start(disk, "--accept-loss")
      let status = try #require(next.status().disks.first?.generations.last)
      #expect(
        status.tainted == (mode == "snapshot"), "a snapshot that may miss what was acknowledged is broken")
      if mode == "device" {
        try LibNBD.run(
          """
          assert h.pread(131072, 0) == b"a" * 131072
          assert h.pread(65536, 1 << 20) == bytes(65536)
          assert h.pread(65536, 2 << 20) == b"b" * 65536
          """, next.ingestURI("vda"))
      }
      try next.shutDown()
      try Spillway.run(["replay", "-j", journal, "vda", output, "--tainted"]).succeeded()
      let bytes = try #require(FileManager.default.contents(atPath: output))
      #expect(bytes.prefix(131072) == Data(repeating: UInt8(ascii: "a"), count: 131072))
      #expect(bytes[2 << 20..<(2 << 20) + 65536] == Data(repeating: UInt8(ascii: "b"), count: 65536))
      // Accepted once, it is no longer asked about.
      try start(disk).shutDown()
    }

    // The client keeps eight requests in flight. What was not answered when the connection broke it sends again
    // on the next one; what was answered it never sends again.
    @Test("ten times, anywhere, loses nothing that it has acknowledged")
    func tenTimes() throws {
      let seed = EndToEnd.seed()
      var random = SeededGenerator(seed: seed)
      let disk = "vda=32M"
      var daemon = try start(disk, "--spool-size", "16M")
      let expected = directory.file("expected.raw")
      let writer = try LibNBD.start(
        Self.resendingWriter, daemon.ingestURI("vda"), "\(seed)", expected)
      var rounds = 0
      for kill in 1...10 {
        rounds += Int.random(in: 1...40, using: &random)
        try writer.waitForErrorLine(containing: "round \(rounds).", within: .seconds(120))
        daemon.kill()
        daemon = try start(disk, "--spool-size", "16M")
        print("kill \(kill) after round \(rounds)")
      }
      // Told to end it reads everything back, and leaves what it expects for the other witnesses.
      #expect(FileManager.default.createFile(atPath: expected + ".end", contents: nil))
      let done = try writer.finish(within: .seconds(240)).succeeded()
      #expect(done.errorLines.filter { $0.hasPrefix("again") }.count >= 10, "each kill was noticed")
      daemon.kill()
      let replayed = directory.file("replayed.raw")
      try Spillway.replay(journal, "vda", to: replayed)
      try EndToEnd.expectIdentical(expected, replayed)
      daemon = try start(disk)
      let copy = directory.file("copy.raw")
      try Program.nbdcopy.run([daemon.ingestURI("vda"), copy])
      try EndToEnd.expectIdentical(expected, copy)
      try daemon.shutDown()
    }

    private static let resendingWriter = """
      import time
      random.seed(int(uris[1])); expected = uris[2]
      size = 32 << 20; slots = 8
      model = bytearray(size)
      def again():
          global h
          tell("again")
          deadline = time.monotonic() + 60
          while True:
              try:
                  h = connect(uris[0]); return
              except nbd.Error:
                  # Nobody listens: the daemon is on its way. Its coming cannot be waited for in any other way.
                  if time.monotonic() > deadline: raise
                  time.sleep(0.005)
      def send(request):
          kind, offset, data = request
          if kind == "write": return h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), offset)
          if kind == "fua": return h.aio_pwrite(
              nbd.Buffer.from_bytearray(bytearray(data)), offset, flags=nbd.CMD_FLAG_FUA)
          return h.aio_zero(len(data), offset)
      # Requests in flight never overlap: each is in a part of the disk of its own.
      def request(slot):
          part = size // slots
          count = random.choice([512, 4096, 4097, 65536, 300000])
          offset = slot * part + random.randrange(part - count)
          kind = random.choices(["write", "zero", "fua"], [20, 4, 1])[0]
          data = bytes(count) if kind == "zero" else random.randbytes(count // 2) + bytes(count - count // 2)
          return kind, offset, data
      turn = 0
      while not os.path.exists(expected + ".end"):
          pending = [request(slot) for slot in range(slots)]
          for kind, offset, data in pending: model[offset:offset + len(data)] = data
          while pending:
              try:
                  sent = [(send(one), one) for one in pending]
                  while sent:
                      if h.poll(60000) == 0: raise AssertionError("no answer in a minute")
                      for cookie, one in list(sent):
                          if h.aio_command_completed(cookie):
                              sent.remove((cookie, one)); pending.remove(one)
              except nbd.Error as error:
                  again()
          turn += 1
          tell("round %d." % turn)
      for offset in range(0, size, 1 << 20):
          assert h.pread(1 << 20, offset) == model[offset:offset + (1 << 20)], offset
      open(expected, "wb").write(model)
      h.shutdown()
      """
  }

  /// The seed of a random test, printed; SPILLWAY_TEST_SEED repeats one.
  static func seed() -> UInt64 {
    let told = ProcessInfo.processInfo.environment["SPILLWAY_TEST_SEED"].flatMap { UInt64($0) }
    let seed = told ?? UInt64.random(in: 0...UInt64(UInt32.max))
    print("SPILLWAY_TEST_SEED=\(seed)")
    return seed
  }
}
