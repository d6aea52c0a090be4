import Foundation
import Peers
import TestKit
import Testing

extension EndToEnd {
  /// Goal: what a view knows of its disk, and what a generation changed, reaches the tools that people have.
  /// Method: libnbd writes two generations; nbdinfo, libnbd and qemu-img read the contexts.
  @Suite("metadata contexts")
  struct ContextTests {
    let directory: TemporaryDirectory
    let journal: String

    init() throws {
      directory = try TemporaryDirectory()
      journal = directory.file("journal")
    }

    /// The extents of `context` as `nbdinfo --map` tells them: offset, length, type.
    private func map(_ context: String, _ uri: String) throws -> [[Int]] {
      let text = try Program.nbdinfo.run(["--map=\(context)", uri]).outputText
      return text.split(separator: "\n").map { row in
        row.split(separator: " ").prefix(3).compactMap { Int($0) }
      }
    }

    @Test("tell states, and what each generation changed, several in one request")
    func generations() throws {
      let daemon = try SpillwayDaemon(journal: journal, disks: ["vda=1M,mode=snapshot"], in: directory)
      let (ingest, live) = (daemon.ingestURI("vda"), daemon.viewURI("vda@live"))
      try LibNBD.run("h.pwrite(b'a' * 65536, 0)", ingest)
      #expect(try map("x-spillway:state", live) == [[0, 65536, 0], [65536, 983_040, 2]])
      try LibNBD.run("h.zero(983040, 65536)", ingest)
      try daemon.control("seal", "vda", "monday")
      try daemon.control("begin", "vda", "tuesday")
      try LibNBD.run("h.pwrite(b'b' * 4096, 8192)", ingest)
      #expect(
        try map("qemu:dirty-bitmap:tuesday", live) == [
          [0, 8192, 0], [8192, 4096, 1], [12288, 1_036_288, 0],
        ])
      let monday = daemon.viewURI("vda@monday")
      #expect(try map("qemu:dirty-bitmap:monday", monday) == [[0, 1_048_576, 1]])
      #expect(try map("x-spillway:state", monday) == [[0, 65536, 0], [65536, 983_040, 1]])
      try LibNBD.run(
        """
        view = nbd.NBD()
        names = ["base:allocation", "x-spillway:state", "qemu:dirty-bitmap:monday", "qemu:dirty-bitmap:tuesday"]
        for name in names + ["qemu:dirty-bitmap:wednesday"]: view.add_meta_context(name)
        view.connect_uri(uris[1])
        assert [view.can_meta_context(name) for name in names] == [True] * 4
        assert not view.can_meta_context("qemu:dirty-bitmap:wednesday")
        seen = {}
        view.block_status(1 << 20, 0, lambda name, offset, entries, error: seen.update({name: entries}) or 0)
        assert seen["base:allocation"] == [1048576, 0], seen
        assert seen["x-spillway:state"] == [8192, 2, 4096, 0, 1036288, 2], seen
        assert seen["qemu:dirty-bitmap:monday"] == [1048576, 1], seen
        assert seen["qemu:dirty-bitmap:tuesday"] == [8192, 0, 4096, 1, 1036288, 0], seen
        # REQ_ONE, and an offset inside an extent.
        view.block_status(4096, 9000, lambda name, offset, entries, error: seen.update({name: entries}) or 0,
                          nbd.CMD_FLAG_REQ_ONE)
        assert seen["x-spillway:state"] == [12288 - 9000, 0], seen
        """, ingest, live)
      try daemon.shutDown()
    }

    @Test("of 16 TiB with next to nothing on it are read whole by nbdinfo, and copied sparsely by qemu-img")
    func sparse() throws {
      let daemon = try SpillwayDaemon(journal: journal, disks: ["vda=16T"], in: directory)
      let ingest = daemon.ingestURI("vda")
      try LibNBD.run("h.pwrite(b'x' * 65536, 9 << 40); h.shutdown()", ingest)
      let end = 16 << 40
      let island = 9 << 40
      let expected = [[0, island, 3], [island, 65536, 0], [island + 65536, end - island - 65536, 3]]
      #expect(try map("base:allocation", ingest) == expected)
      let json = try Program.qemuImg.run(["map", "-f", "raw", "--output=json", ingest]).output
      struct Extent: Decodable {
        var start: Int
        var length: Int
        var data: Bool
        var zero: Bool
      }
      let extents = try JSONDecoder().decode([Extent].self, from: Data(json)).filter(\.data)
      #expect(extents.map(\.start) == [island] && extents.map(\.length) == [65536])
      try daemon.shutDown()
    }
  }
}
