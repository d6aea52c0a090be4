import Foundation
import Peers
import TestKit
import Testing

extension EndToEnd {
  /// Goal: whoever runs backups by hand or from a script closes one, begins the next, and reads each of them.
  /// Method: libnbd writes a small disk; `ctl` seals and begins; views, status, replay and verify say what there is.
  @Suite("generations")
  struct GenerationTests {
    let directory: TemporaryDirectory
    let journal: String

    init() throws {
      directory = try TemporaryDirectory()
      journal = directory.file("journal")
    }

    private func run(_ arguments: String...) throws -> FinishedProcess {
      try Spillway.run([arguments[0], "-j", journal] + arguments.dropFirst(), within: .seconds(60))
    }

    private func image(_ name: String) throws -> Data {
      let output = directory.file("output.raw")
      #expect(try run("replay", name, output, "--force").status == .exited(0))
      return try #require(FileManager.default.contents(atPath: output))
    }

    private func states() throws -> [String] {
      struct Answer: Decodable {
        struct Disk: Decodable {
          struct Generation: Decodable {
            var name: String?
            var kind: String
            var state: String
          }
          var generations: [Generation]
        }
        var disks: [Disk]
      }
      let answer = try JSONDecoder().decode(Answer.self, from: Data(run("status", "--json").output))
      return answer.disks[0].generations.map { "\($0.name ?? "-") \($0.kind) \($0.state)" }
    }

    @Test("a sealed one refuses its writers, the next one takes new ones, and each is read by its name")
    func sealAndBegin() throws {
      let daemon = try SpillwayDaemon(journal: journal, disks: ["vda=1M,mode=snapshot"], in: directory)
      let ingest = daemon.ingestURI("vda")
      try LibNBD.run("h.pwrite(b'a' * 65536, 0)", ingest)
      let early = try run("ctl", "seal", "vda", "monday")
      #expect(early.status == .exited(1) && early.errorLines.first?.contains("not arrived") == true)
      #expect(try run("ctl", "begin", "vda", "tuesday").status == .exited(2), "seal it first")
      try LibNBD.run(
        """
        h.zero(0x100000 - 65536, 65536)
        tell("written")
        signal.sigwait([signal.SIGUSR1])
        for client in [h, connect(uris[0])]:
            expect_error("EPERM", lambda: client.pwrite(b"b" * 512, 0))
            expect_error("EPERM", lambda: client.zero(512, 0))
            expect_error("EPERM", lambda: client.trim(512, 0))
        """, ingest, while: "written"
      ) {
        try daemon.control("seal", "vda", "monday")
        #expect(try states() == ["monday full sealed"])
        #expect(try run("ctl", "seal", "vda", "other").status == .exited(2), "it has a name")
      }
      #expect(try run("ctl", "begin", "vda", "monday").status == .exited(2), "the name is taken")
      #expect(try run("ctl", "begin", "vda", "live").status == .exited(2))
      try LibNBD.run(
        """
        tell("bound")
        signal.sigwait([signal.SIGUSR1])
        expect_error("EPERM", lambda: h.pwrite(b"b" * 512, 0))
        h = connect(uris[0])
        h.pwrite(b"b" * 65536, 0)
        assert connect(uris[1]).pread(512, 0) == b"b" * 512
        assert connect(uris[2]).pread(512, 0) == b"a" * 512
        view = connect(uris[3])
        assert view.pread(512, 0) == b"b" * 512
        assert view.is_read_only()
        expect_error("EPERM", lambda: connect(uris[2]).trim(512, 0)) if view.can_trim() else None
        """, ingest, daemon.viewURI("vda@live"), daemon.viewURI("vda@monday"), daemon.viewURI("vda@tuesday"),
        while: "bound"
      ) { try daemon.control("begin", "vda", "tuesday") }
      #expect(try states() == ["monday full sealed", "tuesday full arriving"])
      let list = try Program.nbdinfo.run(["--list", "nbd+unix:///?socket=\(daemon.ingestSocket)"]).outputText
      for name in ["vda", "vda@live", "vda@monday", "vda@tuesday"] {
        #expect(list.contains("export=\"\(name)\""))
      }

      let expected = Data(repeating: UInt8(ascii: "a"), count: 65536) + Data(count: (1 << 20) - 65536)
      #expect(try image("vda@monday") == expected)
      #expect(try image("vda").prefix(2) == Data("bb".utf8))
      #expect(try run("replay", "vda@sunday", directory.file("none")).status == .exited(2))
      #expect(try run("verify").status == .exited(0), "beside the daemon")
      #expect(try run("verify", "--rebuild-index").status == .exited(2), "it is served")
      try daemon.shutDown()
      #expect(try image("vda@monday") == expected)
      #expect(try run("verify", "--rebuild-index").status == .exited(0))
      #expect(try image("vda@monday") == expected)
    }

    @Test("verify tells damage from a journal that it cannot look at")
    func verify() throws {
      #expect(try run("verify").status == .exited(2), "there is none")
      let daemon = try SpillwayDaemon(journal: journal, disks: ["vda=1M,mode=snapshot"], in: directory)
      try LibNBD.run("h.pwrite(random.Random(1).randbytes(1 << 20), 0)", daemon.ingestURI("vda"))
      try daemon.control("seal", "vda", "monday")
      try daemon.shutDown()
      let clean = try run("verify")
      #expect(
        clean.status == .exited(0) && clean.outputText.contains("1 seals")
          && clean.outputText.contains("clean"))
      let segment = "\(journal)/segments/0000000000000001.seg"
      let file = try #require(FileHandle(forUpdatingAtPath: segment))
      try file.seek(toOffset: 300 << 10)
      file.write(Data("damage".utf8))
      try file.close()
      let damaged = try run("verify")
      #expect(damaged.status == .exited(1))
      #expect(damaged.outputText.hasPrefix("vda@monday bytes "), "\(damaged.outputText)")
      #expect(try run("verify", "--json").outputText.contains("\"flawCount\" : 1"))
    }

    @Test("ctl drop forgets a generation, --keep older ones, and what is left is what it was")
    func drop() throws {
      let daemon = try SpillwayDaemon(
        journal: journal, disks: ["vda=1M,mode=snapshot"], in: directory, ["--keep", "2"])
      for (index, name) in ["a", "b", "c", "d"].enumerated() {
        if index > 0 { try daemon.control("begin", "vda", name) }
        try LibNBD.run("h.pwrite(b'\(name)' * 0x100000, 0)", daemon.ingestURI("vda"))
        try daemon.control("seal", "vda", name)
      }
      #expect(try states() == ["c full sealed", "d full sealed"])
      try daemon.control("drop", "vda@c")
      #expect(try states() == ["d full sealed"])
      for wrong in [["vda@c"], ["vda@d"], ["vda"], ["vdb@d"], ["vda@d", "more"]] {
        #expect(try Spillway.run(["ctl", "-j", journal, "drop"] + wrong).status == .exited(2), "\(wrong)")
      }
      try LibNBD.run("assert h.pread(4096, 8192) == b'd' * 4096", daemon.viewURI("vda@d"))
      #expect(try run("verify").status == .exited(0))
      try daemon.shutDown()
      #expect(try image("vda@d") == Data(repeating: UInt8(ascii: "d"), count: 1 << 20))
    }
  }
}
