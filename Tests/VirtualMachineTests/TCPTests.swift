import Foundation
import Peers
import TestKit
import Testing

extension VirtualMachine {
  /// libguestfs on another machine than the journal: by TCP, as far as its own words for NBD go (it has none for TLS).
  @Suite("libguestfs over TCP")
  struct TCPTests {
    let directory: TemporaryDirectory

    init() throws { directory = try TemporaryDirectory() }

    @Test("reads what was pushed, and virt-df tells what it holds")
    func read() throws {
      let files = directory.file("files")
      try FileManager.default.createDirectory(atPath: files, withIntermediateDirectories: true)
      var random = SeededGenerator(seed: 10_809)
      for size in [1, 4096, 100_000, 5 << 20] {
        let content = Data((0..<size).map { _ in UInt8.random(in: 0...255, using: &random) })
        try content.write(to: URL(fileURLWithPath: "\(files)/\(size)"))
      }
      let image = directory.file("image")
      try Program.mke2fs.run(["-q", "-t", "ext4", "-d", files, image, "64M"])
      let daemon = try SpillwayDaemon(
        journal: directory.file("journal"), disks: ["root=64M,mode=snapshot"], in: directory,
        ["--view", "tcp:127.0.0.1:0"])
      let ready = try daemon.child.waitForErrorLine(containing: "ready", "nbd://", within: .seconds(60))
      let uri = try #require(ready.split(separator: " ").first { $0.hasPrefix("nbd://127.0.0.1:") })
      try Program.nbdcopy.run([image, daemon.ingestURI("root")])
      let disk = ["--format=raw", "-a", String(uri)]

      let archive = directory.file("seen.tar")
      try Libguestfs.pack(disk, into: archive)
      let tree = directory.file("seen")
      try FileManager.default.createDirectory(atPath: tree, withIntermediateDirectories: true)
      try Program.tar.run(["-x", "-f", archive, "-C", tree, "--no-same-owner"])
      for name in try FileManager.default.contentsOfDirectory(atPath: files) {
        let written = try Data(contentsOf: URL(fileURLWithPath: "\(files)/\(name)"))
        let read = try Data(contentsOf: URL(fileURLWithPath: "\(tree)/\(name)"))
        #expect(read == written, "the file of \(name) bytes")
      }

      let answer = try Program.virtDF.start(["--csv"] + disk, environment: Libguestfs.environment)
        .finish(within: .seconds(400)).succeeded()
      let row = answer.outputText.split(separator: "\n").first { $0.contains("/dev/sda") }
      let numbers = (row?.split(separator: ",") ?? []).compactMap { Int($0) }
      try #require(numbers.count >= 3, "\(answer.outputText)")
      #expect((48 << 10...64 << 10).contains(numbers[0]) && numbers[1] < numbers[0])
      try daemon.shutDown()
    }
  }
}
