import Foundation
import Glibc
import Peers
import QEMUMonitor
import TestKit
import Testing

extension EndToEnd {
  /// Goal: whoever inspects a guest sees the moment, and neither the guest nor the host is left with anything of it.
  /// Method: a real qemu writes in the guest's place while the command of a session runs.
  @Suite("the moment of an inspection")
  struct InspectMomentTests {
    let directory: TemporaryDirectory

    init() throws { directory = try TemporaryDirectory() }

    @Test(
      "shows one moment of two disks, whatever the guest writes then, and ends with COMMAND's status and a report"
    )
    func moment() throws {
      let inspected = try InspectedMachine([.raw, .qcow2], in: directory)
      // Of before the moment: it is seen, in the disk's own format too.
      try inspected.write(0x21, at: 2 << 20)
      try inspected.note(0x21, at: 2 << 20)
      try inspected.write(0x22, at: 3 << 20, disk: 1)
      try inspected.note(0x22, at: 3 << 20, disk: 1)
      // The second by its device's id.
      let session = try inspected.inspect(disks: ["root=src0", "data=disk1"])
      for disk in 0..<2 {
        try inspected.write(0x31, at: 0, 1 << 20, 2 << 20, disk: disk)
        try inspected.write(0x32, 512, at: (3 << 20) + 512, disk: disk)
        try inspected.machine.startZeroing(at: 196608, 65536, disk: disk)
        #expect(try inspected.machine.waitForWrites() == [])
      }
      for disk in 0..<2 {
        try session.expectMoment(disk)
        #expect(
          try inspected.machine.reads(0x31, at: 1 << 20, 65536, disk: disk), "the guest reads what it wrote")
      }
      let end = try session.finish(7)
      #expect(end.status == .exited(7))
      try expectReport(end.errorLines, of: inspected)
      try inspected.expectNothingLeft()
    }

    /// Five writes of each disk, each a cluster of old bytes; waits that are not nothing and in order.
    private func expectReport(_ lines: [String], of inspected: InspectedMachine) throws {
      let report = try #require(lines.first { $0.contains("caught ") }, "\(lines)")
      let caught = try #require(
        report.firstMatch(of: /caught (\d+) writes of the guest, (\S+ ?\S*) \(/), "\(report)")
      #expect(Int(caught.1) == 10, "\(report)")
      let waits = try #require(
        report.firstMatch(of: /p50 ([0-9.]+) (\S+), p99 ([0-9.]+) (\S+), at most ([0-9.]+) (\S+);/),
        "\(report)")
      func microseconds(_ number: Substring, _ unit: Substring) throws -> Double {
        let scale = try #require(
          ["ns": 0.001, "µs": 1, "us": 1, "ms": 1000, "s": 1_000_000][String(unit)], "\(unit)")
        return try #require(Double(number)) * scale
      }
      let (p50, p99, most) = try (
        microseconds(waits.1, waits.2), microseconds(waits.3, waits.4), microseconds(waits.5, waits.6)
      )
      #expect(p50 > 0 && p50 <= p99 && p99 <= most * 1.1, "\(report)")
      let reads = try #require(
        report.firstMatch(of: /reads: (\d+) from the live disk \(.*\), (\d+) from the journal/), "\(report)")
      #expect(try #require(Int(reads.1)) > 0, "\(report)")
    }

    @Test("gives COMMAND the disks in its arguments and its environment")
    func arguments() throws {
      let inspected = try InspectedMachine([.raw, .raw], byteCount: 1 << 20, in: directory)
      let end = try inspected.run(
        disks: ["root=src0", "src1"],
        command: [
          "/bin/sh", "-c", #"printf '%s\n' "$@" "$uri" "$view_uri" "$view_uris" "$view_unixsocket""#, "sh",
          "a", "{}", "b{}",
        ]
      ).succeeded()
      let said = end.outputText.split(separator: "\n").map(String.init)
      try #require(said.count == 12, "\(said)")
      let socket = said[11]
      #expect(socket.hasPrefix(inspected.runtimeDirectory))
      #expect(said[0] == "a" && said[7] == "b{}", "only a word of its own stands for the disks: \(said)")
      for (index, disk) in ["root", "src1"].enumerated() {
        let words = Array(said[1 + index * 3...3 + index * 3])
        #expect(words[0] == "--format=raw" && words[1] == "-a", "\(words)")
        #expect(
          words[2].hasPrefix("nbd:///\(disk)@inspect-") && words[2].hasSuffix("?socket=\(socket)"), "\(words)"
        )
      }
      let views = said[10].split(separator: " ").map(String.init)
      #expect(said[8] == views.first && said[9] == views.first, "\(said)")
      #expect(views.count == 2 && views.allSatisfy { $0.hasPrefix("nbd+unix:///") }, "\(views)")
      try inspected.expectNothingLeft()
    }

    @Test("of a disk whose size is no multiple of 512 ends in zeroes, where qemu rounds it up")
    func oddSize() throws {
      let inspected = try InspectedMachine(byteCount: 1 << 20, in: directory)
      let odd = directory.file("odd.raw")
      let bytes = Data((0..<1_000_001).map { UInt8(truncatingIfNeeded: $0 % 251) })
      try bytes.write(to: URL(fileURLWithPath: odd))
      try inspected.machine.monitor.execute(
        "blockdev-add", arguments: ["driver": "file", "node-name": "odd", "filename": .string(odd)])
      let copy = directory.file("copy.raw")
      try inspected.run(
        disks: ["odd"], command: ["/bin/sh", "-c", #"nbdcopy "$view_uri" "$1""#, "sh", copy]
      ).succeeded()
      #expect(
        FileManager.default.contents(atPath: copy) == bytes
          + Data(repeating: 0, count: 1_000_448 - bytes.count))
      try inspected.expectNothingLeft()
    }

    @Test("without COMMAND tells its URIs and serves them until ^C")
    func untilInterrupted() throws {
      let inspected = try InspectedMachine(byteCount: 1 << 20, in: directory)
      let child = try Spillway.start(inspected.arguments(), environment: inspected.environment)
      let deadline = ContinuousClock.now + .seconds(60)
      while !child.outputText.contains("\n"), ContinuousClock.now < deadline {
        if child.hasEnded(within: .milliseconds(10)) { break }
      }
      let words = child.outputText.split(whereSeparator: \.isWhitespace).map(String.init)
      try #require(words.count == 2, "\(words), \(child.errorLines)")
      #expect(words[0] == "root")
      try inspected.write(0x41, at: 0, 131072)
      let copy = directory.file("copy.raw")
      try Program.nbdcopy.run([words[1], copy])
      try EndToEnd.expectIdentical(inspected.originals[0], copy)
      try inspected.noteRing()
      child.send(SIGINT)
      #expect(try child.finish(within: .seconds(60)).status == .exited(0))
      try inspected.expectNothingLeft()
    }

    @Test(
      "with -j keeps the journal, which takes a second one at once and can be asked, verified and written out"
    )
    func keptJournal() throws {
      let inspected = try InspectedMachine(in: directory)
      let journal = directory.file("journal")
      let first = try inspected.inspect(["-j", journal])
      try inspected.write(0x51, at: 0, 1 << 20)
      try first.expectMoment()
      #expect(try Spillway.status(journal).isServed)
      #expect(try first.finish().status == .exited(0))
      try inspected.note(0x51, at: 0)
      try inspected.note(0x51, at: 1 << 20)

      // Within the same second: it is another generation all the same.
      for _ in 0..<2 { try inspected.run(["-j", journal], command: ["/bin/true"]).succeeded() }
      let second = try inspected.inspect(["-j", journal])
      try inspected.write(0x52, at: 0, 2 << 20)
      try second.expectMoment()
      #expect(try second.finish().status == .exited(0))

      let status = try Spillway.status(journal)
      #expect(!status.isServed)
      let generations = try #require(status.disks.first).generations
      #expect(generations.map(\.state) == Array(repeating: "ended", count: 4))
      #expect(generations.map(\.kind) == Array(repeating: "cow", count: 4))
      #expect(Set(generations.map(\.name)).count == 4)
      #expect(generations.allSatisfy { !$0.tainted })
      let verified = try Spillway.run(["verify", "-j", journal])
      #expect(verified.status == .exited(0), "\(verified.errorLines)")
      let name = try "root@" + #require(generations.last?.name)
      let output = directory.file("output.raw")
      let refused = try Spillway.run(["replay", "-j", journal, name, output])
      #expect(refused.status == .exited(1) && refused.errorLines.count == 1, "\(refused.errorLines)")
      // What was caught, and nothing else.
      try Spillway.run(["replay", "-j", journal, name, output, "--tainted"]).succeeded()
      let replayed = try #require(FileManager.default.contents(atPath: output))
      let original = try #require(FileManager.default.contents(atPath: inspected.originals[0]))
      #expect(replayed[0..<65536] == original[0..<65536])
      #expect(replayed[2 << 20..<(2 << 20) + 65536] == original[2 << 20..<(2 << 20) + 65536])
      #expect(replayed[1 << 20..<(1 << 20) + 65536].allSatisfy { $0 == 0 })
      try inspected.noteRing(of: journal)
      try inspected.expectNothingLeft()
    }

    @Test("5,000 reads of the view while the guest overwrites every cluster: none is wrong")
    func race() throws {
      let seed = seeds(1)[0]
      print("inspect race: seed \(seed)")
      let inspected = try InspectedMachine(byteCount: 16 << 20, seed: seed, in: directory)
      let session = try inspected.inspect()
      let over = directory.file("over")
      let readers = try (0..<2).map { index in
        try LibNBD.start(
          """
          random.seed(int(uris[2])); size = h.get_size(); original = os.open(uris[1], os.O_RDONLY)
          reads = wrong = 0
          while reads < 2500 or not os.path.exists(uris[3]):
              if reads == 100: tell("reading")
              count = random.choice([512, 4096, 65536, 98304])
              offset = random.randrange((size - count) // 512) * 512
              if h.pread(count, offset) != os.pread(original, count, offset): wrong += 1
              reads += 1
          print(reads, wrong)
          """, session.views[0], inspected.originals[0], "\(seed &* 2 &+ UInt64(index))", over)
      }
      for reader in readers { try reader.waitForErrorLine(containing: "reading", within: .seconds(60)) }
      var random = SeededGenerator(seed: seed)
      for (count, cluster) in Array(0..<256 as Range<UInt64>).shuffled(using: &random).enumerated() {
        try inspected.machine.startWrite(
          UInt8(count % 255) + 1, at: cluster * 65536, count % 2 == 0 ? 65536 : 4096)
        if count % 4 == 3 { #expect(try inspected.machine.waitForWrites() == []) }
      }
      try Data().write(to: URL(fileURLWithPath: over))
      var all = 0
      for reader in readers {
        let figures = try reader.finish(within: .seconds(120)).succeeded().outputText
          .split(whereSeparator: \.isWhitespace).compactMap { Int($0) }
        try #require(figures.count == 2)
        all += figures[0]
        #expect(figures[1] == 0, "wrong reads, of \(figures[0]); seed \(seed)")
      }
      #expect(all >= 5000)
      try session.expectMoment()
      #expect(try FileComparison.firstDifference(inspected.originals[0], directory.file("live0.raw")) != nil)
      #expect(try session.finish().status == .exited(0))
      try inspected.expectNothingLeft()
    }
  }
}
