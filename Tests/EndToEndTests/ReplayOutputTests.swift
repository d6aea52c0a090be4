import Foundation
import Peers
import TestKit
import Testing

extension EndToEnd {
  /// Goal: a replay ends up whole wherever it may go, or says in one line why not and leaves nothing half done.
  /// Method: one disk, pushed once; real servers and tools on the other end, which also die, lie, fill up and hang up.
  @Suite("outputs of a replay")
  struct ReplayOutputTests {
    private static let byteCount: UInt64 = 24 << 20

    let directory: TemporaryDirectory
    let journal: String
    let source: String

    init() throws {
      directory = try TemporaryDirectory()
      journal = directory.file("journal")
      source = directory.file("source.raw")
      try PatternedImage(at: source, byteCount: Self.byteCount, seed: 0x0e)
      let daemon = try SpillwayDaemon(journal: journal, disks: ["vda=\(Self.byteCount)"], in: directory)
      try Program.nbdcopy.run([source, daemon.ingestURI("vda")])
      try daemon.shutDown()
    }

    private func replay(_ output: String, _ more: String...) throws -> FinishedProcess {
      try Spillway.run(["replay", "-j", journal, "vda", output] + more)
    }

    /// Everything in the folder of outputs, which must not have anything half done.
    private func outputs() throws -> [String] {
      try FileManager.default.contentsOfDirectory(atPath: directory.file("")).filter {
        $0.hasPrefix("out") || $0.hasSuffix(".partial")
      }.sorted()
    }

    /// A file of 0xff that an export can lie over: what a replay leaves out shows.
    private func dirtyFile() throws -> String {
      let path = directory.file("dirty")
      try Data(repeating: 0xff, count: Int(Self.byteCount)).write(to: URL(fileURLWithPath: path))
      return path
    }

    /// nbdkit with `arguments` over a unix socket, once it listens.
    private func nbdkit(_ arguments: [String]) throws -> (child: ChildProcess, uri: String) {
      let socket = directory.file("nbdkit.sock")
      unlink(socket)
      let child = try Program.nbdkit.start(
        ["--foreground", "--exit-with-parent", "--verbose", "--unix", socket] + arguments)
      try child.waitForErrorLine(containing: "bound to unix socket", within: .seconds(30))
      return (child, "nbd+unix:///?socket=\(socket)")
    }

    @Test("a raw file, a qcow2 file and stdout all hold the disk, and a raw file and a qcow2 are sparse")
    func files() throws {
      for (name, format) in [("out.raw", "raw"), ("out.qcow2", "qcow2")] {
        let output = directory.file(name)
        let done = try replay(output, "--verify").succeeded()
        #expect(done.output.isEmpty && done.errorLines.isEmpty)
        try Program.qemuImg.run(["compare", "-f", "raw", "-F", format, source, output])
        let blocks = try FileManager.default.attributesOfItem(atPath: output)
        #expect(blocks[.posixPermissions] as? Int == 0o600)
        var status = stat()
        #expect(stat(output, &status) == 0 && UInt64(status.st_blocks) * 512 < Self.byteCount * 7 / 8)
        // It is there now.
        #expect(try replay(output).status == .exited(2))
        #expect(chmod(output, 0o640) == 0)
        try replay(output, "--force").succeeded()
        #expect(stat(output, &status) == 0 && status.st_mode & 0o777 == 0o640, "it keeps its mode")
        try Program.qemuImg.run(["compare", "-f", "raw", "-F", format, source, output])
      }
      let info = try Program.qemuImg.run(["info", "--output=json", directory.file("out.qcow2")]).outputText
      #expect(info.contains("\"format\": \"qcow2\"") && info.contains("\"virtual-size\": \(Self.byteCount)"))
      try Program.qemuImg.run(["check", directory.file("out.qcow2")])
      let stream = try replay("-").succeeded()
      let isEqual = try Data(stream.output) == Data(contentsOf: URL(fileURLWithPath: source))
      #expect(isEqual)
      #expect(try outputs() == ["out.qcow2", "out.raw"])
    }

    @Test(
      "an export holds the disk, whatever was there and whether or not its server zeroes",
      arguments: [[], ["--filter=nozero"], ["--filter=blocksize-policy", "blocksize-maximum=64K"]])
    func export(filter: [String]) throws {
      let server = try nbdkit(filter.prefix(1) + ["file", try dirtyFile()] + filter.dropFirst())
      try replay(server.uri, "--verify").succeeded()
      try Program.qemuImg.run(["compare", "-f", "raw", "-F", "raw", source, server.uri])
      let info = try Program.nbdinfo.run(["--size", server.uri]).outputText
      #expect(info.trimmingCharacters(in: .whitespacesAndNewlines) == "\(Self.byteCount)")
      server.child.kill()
      try EndToEnd.expectIdentical(source, directory.file("dirty"))
    }

    @Test("an export behind TLS is reached with the keys that its URI names")
    func encrypted() throws {
      let keys = directory.file("keys.psk")
      try Data("alice:\(String(repeating: "0a", count: 32))\n".utf8).write(to: URL(fileURLWithPath: keys))
      let server = try nbdkit(["--tls=require", "--tls-psk=\(keys)", "memory", "24M"])
      #expect(try replay(server.uri).status == .exited(1), "without")
      let uri = server.uri.replacing("nbd+unix:///", with: "nbds+unix://alice@/") + "&tls-psk-file=\(keys)"
      try replay(uri, "--verify").succeeded()
    }

    @Test("an export that cannot take the disk is refused in one line before anything is written")
    func refusedExports() throws {
      let cases: [(arguments: [String], status: Int32, words: String)] = [
        (["--readonly", "memory", "24M"], 1, "read-only"),
        (["memory", "23M"], 2, "has 24117248 bytes"),
        (["--filter=blocksize-policy", "memory", "24M", "blocksize-minimum=4096"], 1, "blocksize filter"),
      ]
      for (arguments, status, words) in cases {
        let server = try nbdkit(arguments)
        let done = try replay(server.uri)
        #expect(done.status == .exited(status))
        #expect(done.errorLines.count == 1 && done.errorLines[0].contains(words), "\(done.errorLines)")
        server.child.kill()
      }
      let nobody = try replay("nbd+unix:///?socket=\(directory.file("nobody"))")
      #expect(nobody.status == .exited(1) && nobody.errorLines.count == 1)
      for word in ["nbd:localhost:10809", "http://localhost/", ""] {
        #expect(try replay(word).status == .exited(2), "\(word)")
      }
    }

    @Test("a server that dies in the middle is one line, and the output is said to be incomplete")
    func serverDies() throws {
      let server = try nbdkit([
        "eval", "get_size=echo \(Self.byteCount)", "can_write=exit 0", "pread=exit 1",
        "pwrite=[ \"$4\" -lt 8000000 ] || kill -9 $PPID; cat >/dev/null",
      ])
      let done = try replay(server.uri)
      #expect(done.status == .exited(1))
      #expect(
        done.errorLines.count == 1 && done.errorLines[0].contains("is incomplete"), "\(done.errorLines)")
      #expect(server.child.hasEnded(within: .seconds(30)), "it was to die")
    }

    @Test("--verify finds out about a server that lost what it took")
    func verification() throws {
      let server = try nbdkit(["null", "24M"])
      let blind = try replay(server.uri)
      #expect(blind.status == .exited(0))
      let done = try replay(server.uri, "--verify")
      #expect(done.status == .exited(1))
      #expect(done.errorLines.count == 1 && done.errorLines[0].contains("differs from vda at byte"))
    }

    @Test("who stops reading the stream ends the replay with one line and status 1")
    func brokenPipe() throws {
      let script = "{ \"$0\" replay -j \"$1\" vda -; echo \"status $?\" >&2; } | head -c 1000 >/dev/null"
      let done = try ChildProcess("/bin/sh", ["-c", script, Spillway.path(), journal]).finish()
      #expect(done.errorLines.count == 2 && done.errorLines.last == "status 1", "\(done.errorLines)")
      #expect(done.errorLines.first?.contains("went away") == true)
    }

    @Test("a word that makes no sense with - is a usage error, and so is a terminal")
    func streamUsage() throws {
      for more in [["--verify"], ["--since", "monday"]] {
        #expect(try Spillway.run(["replay", "-j", journal, "vda", "-"] + more).status == .exited(2))
      }
      let terminal = """
        import os, pty, sys
        child, terminal = pty.fork()
        if child == 0: os.execv(sys.argv[1], sys.argv[1:])
        said = b""
        try:
            while True:
                more = os.read(terminal, 4096)
                if not more: break
                said += more
        except OSError: pass
        assert b"is a terminal" in said, said
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """
      let words = try ["-c", terminal, Spillway.path(), "replay", "-j", journal, "vda", "-"]
      #expect(try Program.python.start(words).finish().status == .exited(2))
    }

    @Test("a qcow2 without qemu's tools, or with one that fails, is one line, and nothing is left")
    func tools() throws {
      let folder = directory.file("bin")
      try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
      func run() throws -> FinishedProcess {
        try Spillway.start(
          ["replay", "-j", journal, "vda", directory.file("out.qcow2")], environment: ["PATH": folder]
        ).finish()
      }
      let without = try run()
      #expect(without.status == .exited(1) && without.errorLines.count == 1)
      #expect(without.errorLines.first?.contains("package qemu-utils") == true)
      func install(_ name: String, _ script: String) throws {
        let path = "\(folder)/\(name)"
        try Data("#!/bin/sh\n\(script)\n".utf8).write(to: URL(fileURLWithPath: path))
        #expect(chmod(path, 0o755) == 0)
      }
      try install("qemu-img", "echo 'qemu-img: no such thing' >&2; exit 1")
      try install("qemu-nbd", "echo 'qemu-nbd: it is broken' >&2; exit 1")
      let first = try run()
      #expect(first.status == .exited(1) && first.errorLines == ["spillway: qemu-img: no such thing"])
      try install("qemu-img", "exit 0")
      let second = try run()
      #expect(second.status == .exited(1) && second.errorLines == ["spillway: qemu-nbd: it is broken"])
      // A server that takes everything and fails at the end.
      try install(
        "qemu-nbd",
        "/bin/sh -c 'LISTEN_PID=$$ exec \"$0\" \"$@\"' \(try Program.qemuNBD.path()) \"$@\"; exit 3")
      try install("qemu-img", "exec \(try Program.qemuImg.path()) \"$@\"")
      let third = try run()
      #expect(third.status == .exited(1) && third.errorLines.count == 1, "\(third.errorLines)")
      #expect(try outputs() == [])
    }

    @Test(
      "a full disk is one line, and what was there before is there still",
      .enabled(if: FullDisk.tmpfs.isPossible, "mounting a tmpfs is not allowed here"),
      arguments: ["out.raw", "out.qcow2"])
    func fullDisk(name: String) throws {
      let mount = directory.file("small")
      try FileManager.default.createDirectory(atPath: mount, withIntermediateDirectories: true)
      let script =
        "echo before > \"$1/$2\"; \"$3\" replay -j \"$4\" vda \"$1/$2\" --force; code=$?; ls -A \"$1\"; cat \"$1/$2\"; exit $code"
      let words =
        try FullDisk.tmpfs.launcher(mount, mebibytes: 6, left: 6)
        + ["/bin/sh", "-c", script, "sh", mount, name, Spillway.path(), journal]
      let done = try ChildProcess(words[0], Array(words[1...])).finish()
      #expect(done.status == .exited(1))
      #expect(done.errorLines.count == 1 && done.errorLines[0].contains("No space"), "\(done.errorLines)")
      #expect(done.errorLines.first?.hasSuffix("nothing of it was kept") == true)
      #expect(done.outputText == "\(name)\nbefore\n")
    }

    @Test(
      "a signal in the middle ends it as it ends any program, and leaves nothing",
      arguments: ["out.raw", "out.qcow2"])
    func interrupted(name: String) throws {
      let held = try HeldStage("replayWritten", in: directory)
      let output = directory.file(name)
      let child = try Spillway.start(
        ["replay", "-j", journal, "vda", output], environment: held.environment)
      try held.meet(child) {
        let found = try outputs()
        #expect(found.count == 1 && found[0].hasPrefix(name) && found[0].hasSuffix(".partial"))
        child.send(SIGINT)
        #expect(try child.finish().status == .killed(signal: SIGINT))
      }
      #expect(try outputs() == [])
      try replay(output).succeeded()
      #expect(try outputs() == [name])
    }
  }
}
