import Foundation
import Peers
import QEMUMonitor
import TestKit
import Testing

extension EndToEnd {
  /// Goal: whoever reads a disk whose guest goes on writing gets the bytes of the moment, or an error.
  /// Method: a real qemu writes to every cluster in the guest's place while real clients read; and at the instants that
  /// matter the daemon is held until the guest has written.
  @Suite("the source of a disk")
  struct SourceTests {
    let directory: TemporaryDirectory

    init() throws { directory = try TemporaryDirectory() }

    @Test("40,000 reads while the guest overwrites every cluster: none is wrong")
    func race() throws {
      let seed = seeds(1)[0]
      let live = try LiveDisk(byteCount: 64 << 20, seed: seed, in: directory)
      try live.startJob()
      let over = directory.file("over")
      let readers = try (0..<2).map { index in
        try LibNBD.start(
          """
          random.seed(int(uris[2])); size = h.get_size(); original = os.open(uris[1], os.O_RDONLY)
          reads = wrong = 0
          while reads < 20000 or not os.path.exists(uris[3]):
              if reads == 200: tell("reading")
              count = random.choice([512, 4096, 65536, 98304])
              offset = random.randrange((size - count) // 512) * 512
              if h.pread(count, offset) != os.pread(original, count, offset): wrong += 1
              reads += 1
          print(reads, wrong)
          """, live.view, live.original, "\(seed &* 2 &+ UInt64(index))", over)
      }
      for reader in readers { try reader.waitForErrorLine(containing: "reading", within: .seconds(60)) }
      var random = SeededGenerator(seed: seed)
      for (count, cluster) in Array(0..<1024 as Range<UInt64>).shuffled(using: &random).enumerated() {
        let size: UInt64 = count % 2 == 0 ? 65536 : 4096
        try live.machine.startWrite(UInt8(count % 255) + 1, at: cluster * 65536, size)
        if count % 2 == 1 { #expect(try live.machine.waitForWrites() == []) }
      }
      let status = try live.daemon.status()
      try Data().write(to: URL(fileURLWithPath: over))
      var all = 0
      for reader in readers {
        let end = try reader.finish(within: .seconds(240))
        if end.status != .exited(0) { print(live.daemon.child.errorLines.suffix(20).joined(separator: "\n")) }
        let figures = try end.succeeded().outputText
          .split(whereSeparator: \.isWhitespace).compactMap { Int($0) }
        try #require(figures.count == 2)
        all += figures[0]
        #expect(figures[1] == 0, "wrong reads, of \(figures[0]); seed \(seed)")
      }
      #expect(all >= 40_000)
      #expect(status.readsFromSource > 1000 && status.sourceErrors == 0, "\(status)")
      #expect(
        status.writtenBytes + status.zeroedBytes >= live.byteCount, "the guest did not write everywhere")
      let copy = directory.file("copy.raw")
      try Program.nbdcopy.run([live.view, copy])
      try EndToEnd.expectIdentical(live.original, copy)
      #expect(try FileComparison.firstDifference(live.original, directory.file("live.raw")) != nil)
    }

    @Test(
      "a guest's write between the look and the read of the source is not seen",
      arguments: [nil, "lookBeforeSource"] as [String?])
    func order(bug: String?) throws {
      let held = try HeldStage("sourceWanted", in: directory)
      let environment = held.environment.merging(bug.map { ["SPILLWAY_PLANTED_BUG": $0] } ?? [:]) { $1 }
      let live = try LiveDisk(byteCount: 4 << 20, seed: 5, in: directory, environment: environment)
      try live.startJob()
      let reader = try read(65536, at: 1 << 20, of: live)
      try held.meet { try live.machine.write(0xee, at: 1 << 20, 65536) }
      #expect(try reader.finish().succeeded().outputText == (bug == nil ? "right\n" : "new\n"))
      // Whatever is kept of it, the next read finds what has arrived.
      #expect(try read(65536, at: 1 << 20, of: live).finish().succeeded().outputText == "right\n")
    }

    @Test(
      "a read under way when the job ends fails, and a job that has its name next does not pass for it",
      arguments: [nil, "successorJob"] as [String?])
    func successor(bug: String?) throws {
      let held = try HeldStage("sourceWanted", in: directory)
      let environment = held.environment.merging(bug.map { ["SPILLWAY_PLANTED_BUG": $0] } ?? [:]) { $1 }
      let live = try LiveDisk(byteCount: 4 << 20, seed: 6, in: directory, environment: environment)
      try live.startJob()
      try live.machine.write(0x11, at: 3 << 20, 65536)
      let reader = try read(4096, at: 1 << 20, of: live)
      try held.meet {
        try live.cancelJob()
        try live.machine.write(0xee, at: 1 << 20, 65536)
        try live.startJob()
      }
      #expect(try reader.finish().succeeded().outputText == (bug == nil ? "EIO\n" : "new\n"))
      // What has arrived is served as before.
      #expect(try read(65536, at: 3 << 20, of: live).finish().succeeded().outputText == "right\n")
      guard bug == nil else { return }
      #expect(try read(4096, at: 2 << 20, of: live).finish().succeeded().outputText == "EIO\n")
      // Nor does it for a daemon that comes later, which knows that its job was seen.
      try live.restartDaemon()
      #expect(try read(4096, at: 2 << 20, of: live).finish().succeeded().outputText == "EIO\n")
    }

    @Test("map and status tell what the source would be asked for, as long as its job lives")
    func map() throws {
      let live = try LiveDisk(byteCount: 1 << 20, seed: 8, in: directory)
      let journal = directory.file("journal")
      func map() throws -> [String] {
        try Spillway.run(["map", "-j", journal, "vda"]).succeeded().outputText.split(separator: "\n").map {
          $0.split(separator: " ").joined(separator: " ")
        }
      }
      #expect(try map() == ["0 1048576 awaited"], "its job was not seen")
      try live.startJob()
      try live.machine.write(0x11, at: 256 << 10, 65536)
      #expect(try read(4096, at: 0, of: live).finish().succeeded().outputText == "right\n")
      let expected = ["0 262144", "262144 65536 zero", "327680 720896"]
      let seen = try map()
      #expect(seen == [expected[0] + " source", expected[1], expected[2] + " source"])
      let text = try Spillway.run(["status", "-j", journal]).succeeded().outputText
      #expect(text.contains("source alive"), "\(text)")
      try live.cancelJob()
      #expect(try read(4096, at: 1 << 19, of: live).finish().succeeded().outputText == "EIO\n")
      let over = try map()
      #expect(over == [expected[0] + " absent", expected[1], expected[2] + " absent"])
      try live.daemon.shutDown()
      #expect(try map().first?.hasSuffix("source") == false)
    }

    @Test("qemu killed under a read: the read fails, what has arrived is served, by the next daemon too")
    func qemuKilled() throws {
      let held = try HeldStage("sourceRead", in: directory)
      let live = try LiveDisk(byteCount: 4 << 20, seed: 7, in: directory, environment: held.environment)
      try live.startJob()
      try live.machine.write(0x11, at: 3 << 20, 65536)
      let reader = try read(4096, at: 1 << 20, of: live)
      try held.meet { live.machine.kill() }
      #expect(try reader.finish().succeeded().outputText == "EIO\n")
      for _ in 0..<2 {
        #expect(try read(65536, at: 3 << 20, of: live).finish().succeeded().outputText == "right\n")
        #expect(try read(4096, at: 1 << 20, of: live).finish().succeeded().outputText == "EIO\n")
        try live.restartDaemon()
      }
    }

    @Test("reads that came before the job wait for it, and for nothing else")
    func awaited() throws {
      let live = try LiveDisk(byteCount: 4 << 20, seed: 8, in: directory)
      let reader = try read(65536, at: 1 << 20, of: live)
      try live.daemon.waitForStatus("parked") { $0.parkedReads == 1 }
      try live.startJob()
      #expect(try reader.finish().succeeded().outputText == "right\n")
    }

    @Test("the job yields to reads of the source and has its speed again, after a kill of the daemon too")
    func speed() throws {
      let live = try LiveDisk(byteCount: 256 << 20, seed: 9, in: directory)
      let own: Int64 = 8 << 20
      try live.startJob(sync: "full", bytesPerSecond: own)
      for isKilled in [false, true] {
        let over = directory.file("over\(isKilled)")
        let reader = try LibNBD.start(
          """
          size = h.get_size()
          try:
              while not os.path.exists(uris[1]): h.pread(4096, random.randrange(size // 4096) * 4096)
          except nbd.Error: pass
          """, live.view, over)
        try waitForSpeed(of: live) { $0 < own && $0 > 0 }
        if isKilled { try live.restartDaemon() }
        try Data().write(to: URL(fileURLWithPath: over))
        try reader.finish().succeeded()
        try waitForSpeed(of: live) { $0 == own }
      }
    }

    @Test("a static source needs no job; one of another size, or with no monitor, is a wrong command line")
    func arguments() throws {
      let image = directory.file("image.raw")
      try PatternedImage(at: image, byteCount: 1 << 20, seed: 3)
      let socket = directory.file("nbdkit.sock")
      let server = try Program.nbdkit.start([
        "--foreground", "--readonly", "--verbose", "--unix", socket, "file", image,
      ])
      try server.waitForErrorLine(containing: "bound to unix socket", within: .seconds(30))
      let source = "vda=nbd+unix:///?socket=\(socket)"
      func serve(_ size: String, _ more: String...) throws -> FinishedProcess {
        try Spillway.run(["serve", "-j", directory.file("k"), "--disk", "vda=\(size)"] + more)
      }
      let bySize = try serve("2M", "--source", source + ",static")
      #expect(bySize.status == .exited(2))
      #expect(
        bySize.errorLines.joined().contains("1048576") && bySize.errorLines.joined().contains("2097152"))
      #expect(try serve("1M", "--source", source + ",job=x").status == .exited(2))
      #expect(try serve("1M", "--source", source).status == .exited(2))

      let daemon = try SpillwayDaemon(
        journal: directory.file("journal"), disks: ["vda=1M,mode=snapshot"], in: directory,
        ["--source", source + ",static"])
      let copy = directory.file("copy.raw")
      try Program.nbdcopy.run([daemon.viewURI("vda@live"), copy])
      try EndToEnd.expectIdentical(image, copy)
      try daemon.shutDown()
    }

    /// A reader that says whether what it got is `right`, has `new` bytes (0xee), or is an error.
    private func read(_ byteCount: Int, at offset: Int, of live: LiveDisk) throws -> ChildProcess {
      try LibNBD.start(
        """
        count, offset = int(uris[2]), int(uris[3])
        try:
            got = h.pread(count, offset)
            wanted = os.pread(os.open(uris[1], os.O_RDONLY), count, offset)
            print("right" if got == wanted else "new" if 0xee in set(got) else "wrong")
        except nbd.Error as error: print(error.errno)
        """, live.view, live.original, "\(byteCount)", "\(offset)")
    }

    /// Asks until the speed is as wanted, which it becomes or the test fails.
    private func waitForSpeed(of live: LiveDisk, _ isWanted: (Int64) -> Bool) throws {
      let deadline = ContinuousClock.now + .seconds(60)
      while let speed = try live.speed(), !isWanted(speed) {
        guard ContinuousClock.now < deadline else { throw PeerError("the job's speed stayed \(speed)") }
        _ = try live.machine.monitor.nextEvent(within: .milliseconds(20)) { _ in false }
      }
      _ = try #require(try live.speed(), "the job has ended")
    }
  }
}
