import Foundation
import Peers
import TestKit
import Testing

extension EndToEnd {
  /// Goal: an output that holds one backup is brought to a later one by what changed since.
  /// Method: a real qemu and three backups on one another; a raw file, a qcow2 and an export of each, updated and compared
  /// with the moments.
  @Suite("replays since a generation")
  struct ReplaySinceTests {
    let directory: TemporaryDirectory
    let guest: BackupGuest

    init() throws {
      directory = try TemporaryDirectory()
      let seed = EndToEnd.seed()
      var random = SeededGenerator(seed: seed)
      guest = try BackupGuest(seed: seed, in: directory)
      try guest.keep("g1")
      for (name, base) in [("g2", "g1"), ("g3", "g2")] {
        try guest.scribble(&random)
        // Something that becomes zero: a hole in the output.
        try guest.write(0, at: name == "g2" ? 1 << 20 : 3 << 20, 256 << 10)
        try guest.keep(name, on: base)
      }
    }

    private func replay(_ generation: String, _ output: String, _ more: String...) throws -> FinishedProcess {
      try Spillway.run(["replay", "-j", guest.journal, "root@\(generation)", output] + more)
    }

    private func expect(_ generation: String, in output: String, _ format: String = "raw") throws {
      try Program.qemuImg.run(["compare", "-f", "raw", "-F", format, guest.moment(generation), output])
    }

    @Test("files are what a whole replay makes, and only what changed is written")
    func files() throws {
      for (name, format) in [("a.raw", "raw"), ("a.qcow2", "qcow2")] {
        let output = directory.file(name)
        try replay("g1", output).succeeded()
        try replay("g3", output, "--since", "g1", "--verify").succeeded()
        try expect("g3", in: output, format)
        try replay("g2", output, "--force").succeeded()
        try replay("g3", output, "--since", "g2").succeeded()
        try replay("g3", output, "--since", "g2").succeeded()
        try expect("g3", in: output, format)
      }
      try Program.qemuImg.run(["check", directory.file("a.qcow2")])
      // What lies where nothing has changed is not touched, and the comparison sees it.
      let output = directory.file("b.raw")
      try replay("g2", output).succeeded()
      let file = try #require(FileHandle(forUpdatingAtPath: output))
      let same = try unchanged()
      try file.seek(toOffset: same)
      file.write(Data([0x5a, 0xa5]))
      try file.close()
      try replay("g3", output, "--since", "g2").succeeded()
      let found = try FileHandle(forReadingFrom: URL(fileURLWithPath: output))
      try found.seek(toOffset: same)
      #expect(try found.read(upToCount: 2) == Data([0x5a, 0xa5]))
      let seen = try replay("g3", output, "--since", "g2", "--verify")
      #expect(seen.status == .exited(1) && seen.errorLines.count == 1)
      #expect(seen.errorLines.first?.contains("differs from root@g3 at byte \(same)") == true)
    }

    /// Where a cluster of 64 KiB is the same in all moments, and is no hole.
    private func unchanged() throws -> UInt64 {
      let images = try ["g1", "g2", "g3"].map { try Data(contentsOf: URL(fileURLWithPath: guest.moment($0))) }
      for cluster in 0..<Int(guest.byteCount >> 16) {
        let range = cluster << 16..<(cluster + 1) << 16
        let (first, second, third) = (images[0][range], images[1][range], images[2][range])
        // The bytes that the test writes there must be others.
        if first == second, second == third, first.first != 0x5a { return UInt64(range.lowerBound) }
      }
      throw PeerError("every cluster has changed: choose another seed")
    }

    @Test("an export is brought up to date in place")
    func export() throws {
      let socket = directory.file("nbdkit.sock")
      let server = try Program.nbdkit.start([
        "--foreground", "--verbose", "--unix", socket, "memory", "\(guest.byteCount)",
      ])
      try server.waitForErrorLine(containing: "bound to unix socket", within: .seconds(30))
      let uri = "nbd+unix:///?socket=\(socket)"
      try replay("g1", uri).succeeded()
      try replay("g2", uri, "--since", "g1", "--verify").succeeded()
      try replay("g3", uri, "--since", "g2", "--verify").succeeded()
      try expect("g3", in: uri)
    }

    @Test("what OUTPUT or GENERATION cannot be is a usage error, and changes nothing")
    func usage() throws {
      let output = directory.file("c.raw")
      #expect(try replay("g2", output, "--since", "g1").status == .exited(2), "it is not there")
      try replay("g1", output).succeeded()
      for since in ["g2", "g3", "g9", "live", "a/b", ""] {
        let refused = try replay("g2", output, "--since", since)
        #expect(refused.status == .exited(2) && refused.errorLines.count == 1, "\(since)")
      }
      try expect("g1", in: output)
      let file = try #require(FileHandle(forUpdatingAtPath: output))
      try file.truncate(atOffset: guest.byteCount - 512)
      try file.close()
      #expect(try replay("g2", output, "--since", "g1").status == .exited(2), "another size")
      let image = directory.file("c.qcow2")
      try Program.qemuImg.run(["create", "-q", "-f", "qcow2", image, "\(guest.byteCount + 512)"])
      let size = try replay("g2", image, "--since", "g1")
      #expect(size.status == .exited(2) && size.errorLines.count == 1, "\(size.errorLines)")
      let raw = directory.file("d.qcow2")
      try Data(count: Int(guest.byteCount)).write(to: URL(fileURLWithPath: raw))
      let format = try replay("g2", raw, "--since", "g1")
      #expect(format.status == .exited(1) && format.errorLines.count == 1)
      #expect(format.errorLines.first?.contains("not in qcow2 format") == true, "\(format.errorLines)")
    }
  }
}
