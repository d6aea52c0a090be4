import TestKit
import Foundation
import Peers
import Testing

extension EndToEnd {
  /// Goal: `--run` makes a daemon out of one command line, as nbdkit's does.
  /// Method: the commands of the manual, and the statuses that scripts look at.
  @Suite("serve --run")
  struct RunTests {
    let directory: TemporaryDirectory
    let journal: String

    init() throws {
      directory = try TemporaryDirectory()
      journal = directory.file("journal")
    }

    private func serve(_ command: String, _ disks: String...) throws -> FinishedProcess {
      try Spillway.run(
        ["serve", "-j", journal] + disks.flatMap { ["--disk", $0] } + ["--run", command])
    }

    @Test("gives the command the URIs of both exports, and leaves a closed journal behind")
    func uris() throws {
      let (source, seen) = (directory.file("source.raw"), directory.file("seen.raw"))
      let image = try PatternedImage(at: source, byteCount: 8 << 20, seed: 0x12)
      let done = try serve(
        "nbdcopy '\(source)' \"$uri\" && nbdcopy \"$view_uri\" '\(seen)' && nbdinfo --size \"$view_uri\" "
          + "&& test -S \"$unixsocket\" && test -S \"$view_unixsocket\"",
        "vda=\(image.byteCount)", "vdb=1M")
      #expect(done.status == .exited(0), "\(done.errorLines)")
      #expect(done.outputText == "\(image.byteCount)\n", "the command's stdout, and nothing else")
      try EndToEnd.expectIdentical(source, seen)
      let replayed = directory.file("replayed.raw")
      try Spillway.replay(journal, "vda", to: replayed)
      try EndToEnd.expectIdentical(source, replayed)
    }

    @Test(
      "ends as the command ends",
      arguments: [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("nbdinfo \"$uri-no\" 2>&1", 1)]
        as [(String, Int32)])
    func status(command: String, status: Int32) throws {
      let done = try serve(command, "vda=1M")
      #expect(done.status == .exited(status), "\(done.errorLines)")
      #expect(try !Spillway.status(journal).isServed)
    }

    @Test("does not run the command when there is nothing to serve")
    func notReady() throws {
      let mark = directory.file("mark")
      let done = try serve("touch '\(mark)'", "vda=1000")
      #expect(done.status == .exited(2))
      #expect(!FileManager.default.fileExists(atPath: mark))
    }
  }
}
