import Foundation
import Glibc
import Peers
import TestKit
import Testing

extension EndToEnd {
  /// Goal: each way to a daemon that its users have (TLS, vsock, systemd's sockets), and how it lets go of them.
  /// Method: libnbd as client, and as the systemd that opens the socket; signals to the real process.
  @Suite("a transport")
  struct TransportTests {
    let directory: TemporaryDirectory
    let journal: String

    init() throws {
      directory = try TemporaryDirectory()
      journal = directory.file("journal")
    }

    @Test("TLS with keys: the announced URI takes it, and only it")
    func tls() throws {
      let keys = directory.file("keys.psk")
      try "alice:00112233445566778899aabbccddeeff\n".write(toFile: keys, atomically: true, encoding: .utf8)
      let daemon = try SpillwayDaemon(
        journal: journal, disks: ["vda=8M"], in: directory, ["--tls", "require", "--tls-psk", keys])
      let ready = try daemon.child.waitForErrorLine(
        containing: "ready", "nbds+unix:///vda?socket=", within: .seconds(60))
      #expect(!ready.contains("nbd+unix"))
      try LibNBD.startUnconnected(
        """
        for uri in uris[:2]:
            try: nbd.NBD().connect_uri(uri); assert False, "let in without TLS"
            except nbd.Error as error: assert "TLS" in str(error) or error.errno, error
        def secured(uri):
            handle = nbd.NBD(); handle.set_tls(nbd.TLS_REQUIRE); handle.set_tls_username("alice")
            handle.set_tls_psk_file(uris[2]); handle.connect_uri(uri); return handle
        writer = secured(uris[0]); view = secured(uris[1])
        data = random.randbytes(1 << 20)
        buffer = nbd.Buffer(1 << 20)
        parked = view.aio_pread(buffer, 0)
        writer.pwrite(data, 0)
        while not view.aio_command_completed(parked): view.poll(-1)
        assert buffer.to_bytearray() == data
        writer.shutdown()
        """, daemon.ingestURI("vda"), daemon.viewURI("vda@live"), keys
      ).finish(within: .seconds(60)).succeeded()
      try daemon.shutDown()
    }

    @Test(
      "a disk for TLS only is hidden from clients in the clear, who have the other one, and is as any other behind TLS"
    )
    func tlsOnly() throws {
      let keys = directory.file("keys.psk")
      try "alice:00112233445566778899aabbccddeeff\n".write(toFile: keys, atomically: true, encoding: .utf8)
      let daemon = try SpillwayDaemon(
        journal: journal, disks: ["vda=8M", "vdb=8M"], in: directory,
        ["--tls", "on", "--tls-psk", keys, "--tls-only", "vdb"])
      let ready = try daemon.child.waitForErrorLine(
        containing: "ready", "nbds+unix:///vdb?socket=", within: .seconds(60))
      #expect(ready.contains("nbd+unix:///vda?socket=") && !ready.contains("nbd+unix:///vdb"))
      for export in [daemon.ingestURI("vdb"), daemon.viewURI("vdb@live")] {
        let info = try Program.nbdinfo.start(["--size", export]).finish()
        #expect(info.status != .exited(0) && info.errorLines.joined().contains("TLS"), "\(info.errorLines)")
        #expect(try Program.qemuImg.start(["info", "-f", "raw", export]).finish().status != .exited(0))
      }
      let socket = daemon.ingestURI("").split(separator: "=").last!
      func list(_ uri: String) throws -> [String] {
        try Program.nbdinfo.run(["--list", uri]).outputText.split(separator: "\n")
          .filter { $0.hasPrefix("export=") }.map { String($0.dropFirst(8).dropLast(2)) }
      }
      #expect(try list("nbd+unix:///?socket=\(socket)") == ["vda", "vda@live"])
      let secured = "nbds+unix://alice@/?socket=\(socket)&tls-psk-file=\(keys)"
      #expect(try list(secured) == ["vda", "vda@live", "vdb", "vdb@live"])
      try LibNBD.run("h.pwrite(b'a' * 4096, 0)", daemon.ingestURI("vda"))
      let credentials = "tls-creds-psk,id=tls,endpoint=client,username=alice,dir=\(directory.path)"
      let image =
        "driver=raw,file.driver=nbd,file.server.type=unix,file.server.path=\(socket),file.export=vdb,file.tls-creds=tls"
      try Program.qemuImg.run(["info", "--object", credentials, "--image-opts", image])
      let wrong = try Spillway.run(
        [
          "serve", "-j", journal + "2", "--disk", "vda=8M", "--tls", "on", "--tls-psk", keys, "--tls-only",
          "vdc",
        ],
        within: .seconds(60))
      #expect(wrong.status == .exited(2) && wrong.errorLines.joined().contains("--tls-only vdc"))
      try daemon.shutDown()
    }

    @Test("certificates that are not there end the start with their name")
    func missingCertificates() throws {
      let result = try Spillway.run(
        ["serve", "-j", journal, "--disk", "vda=8M", "--tls", "on", "--tls-certificates", directory.path],
        within: .seconds(60))
      #expect(result.status == .exited(1) && result.errorLines.joined().contains("server-cert.pem"))
    }

    @Test("a socket that systemd has opened is served, in place of the default one")
    func socketActivation() throws {
      try LibNBD.startUnconnected(
        """
        activated = nbd.NBD(); activated.set_export_name("vda")
        activated.connect_systemd_socket_activation([uris[0], "serve", "-j", uris[1],
                                                     "--disk", "vda=8M"])
        assert activated.get_size() == 8 << 20 and not activated.is_read_only()
        activated.pwrite(b"x" * 4096, 0)
        assert not os.path.exists(uris[1] + "/ingest.sock")
        view = connect("nbd+unix:///?socket=" + uris[1] + "/view.sock")
        assert view.pread(4096, 0) == b"x" * 4096
        activated.shutdown()
        """, Spillway.path(), journal
      ).finish(within: .seconds(60)).succeeded()
    }

    @Test(
      "of systemd's sockets the one that is named view shows views, and COMMAND sees none of the variables")
    func namedSockets() throws {
      // What systemd does before it executes a service.
      let script = """
        import os, socket, sys
        sockets = []
        for path in sys.argv[1:3]:
            one = socket.socket(socket.AF_UNIX); one.bind(path); one.listen(); sockets.append(one)
        for number, one in enumerate(sockets): os.dup2(one.fileno(), 10 + number)
        for number in range(2): os.dup2(10 + number, 3 + number)
        os.closerange(5, 20)
        os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2", LISTEN_FDNAMES="spillway.socket:view")
        os.execv(sys.argv[3], sys.argv[3:])
        """
      let (everything, views) = (directory.file("a.sock"), directory.file("b.sock"))
      let command =
        #"test -z "$LISTEN_FDS$LISTEN_PID$LISTEN_FDNAMES" && nbdinfo --list "$uri" && ! nbdinfo --size "nbd+unix:///vda?socket=$view_unixsocket" && nbdinfo --size "$view_uri""#
      let run = try ChildProcess(
        Program.python.path(),
        [
          "-c", script, everything, views, Spillway.path(), "serve", "-j", journal, "--disk", "vda=8M",
          "--run", command,
        ])
      let result = try run.finish(within: .seconds(60))
      #expect(result.status == .exited(0), "\(result.errorLines)")
      #expect(result.outputText.contains("vda@live"))
      #expect(access(everything, F_OK) == 0, "the socket's file is systemd's")
    }

    // Two machines would be needed to connect; that it listens is seen from /proc.
    @Test("vsock is listened on")
    func vsock() throws {
      let daemon = try SpillwayDaemon(
        journal: journal, disks: ["vda=8M"], in: directory, ["--listen", "vsock:any:10809"])
      try daemon.child.waitForErrorLine(containing: "nbd+vsock://", within: .seconds(60))
      let second = try Spillway.run(
        ["serve", "-j", journal + "2", "--disk", "vda=8M", "--listen", "vsock:any:10809"],
        within: .seconds(60))
      #expect(
        second.status == .exited(1) && second.errorLines.joined().contains("vsock:any:10809"),
        "the address is taken")
      try daemon.shutDown()
    }

    @Test("clients that take all the connections there are take no descriptor from the journal")
    func crowded() throws {
      let socket = directory.file("i.sock")
      let daemon = try ChildProcess(
        "/bin/sh",
        [
          "-c", "ulimit -n 300; exec \"$0\" \"$@\"", try Spillway.path(), "serve", "-j", journal, "--disk",
          "vda=8M",
          "--listen", "unix:\(socket)",
        ])
      try daemon.waitForErrorLine(containing: "ready", within: .seconds(60))
      // Each flush opens files. Who is not let in is hung up on, which shows that all have been seen.
      try LibNBD.startUnconnected(
        """
        import socket
        h = connect("nbd+unix:///vda?socket=" + uris[0])
        crowd = [socket.socket(socket.AF_UNIX) for n in range(400)]
        for one in crowd: one.connect(uris[0])
        closed = sum(1 for one in crowd if one.recv(1) == b"")
        assert closed >= 200, closed
        for turn in range(50):
            data = random.randbytes(4096); h.pwrite(data, turn * 4096); h.flush()
            assert h.pread(4096, turn * 4096) == data
        h.shutdown()
        """, socket
      ).finish(within: .seconds(60)).succeeded()
      daemon.send(SIGTERM)
      #expect(try daemon.finish(within: .seconds(60)).status == .exited(0))
    }

    // One machine is both sides when its kernel has the module vsock_loopback loaded.
    @Test(
      "libnbd connects over vsock",
      .enabled(
        if: access("/sys/module/vsock_loopback", F_OK) == 0,
        "vsock_loopback is not loaded: no vsock to oneself"))
    func vsockLoopback() throws {
      let port = 20_000 + getpid() % 20_000
      let daemon = try SpillwayDaemon(
        journal: journal, disks: ["vda=8M"], in: directory, ["--listen", "vsock:any:\(port)"])
      let uri = "nbd+vsock://1:\(port)/vda"
      try LibNBD.run(
        "h.pwrite(b'x' * 65536, 512); assert h.pread(65536, 512) == b'x' * 65536; h.shutdown()", uri)
      #expect(try Program.nbdinfo.run(["--size", uri]).outputText == "8388608\n")
      try daemon.shutDown()
    }

    @Test("SIGTERM waits for COMMAND, a second one ends at once, and nothing acknowledged is lost")
    func secondSignal() throws {
      let pidFile = directory.file("command.pid")
      let daemon = try SpillwayDaemon(
        journal: journal, disks: ["vda=8M"], in: directory,
        ["--run", "trap '' TERM; echo $$ > \(pidFile).new; mv \(pidFile).new \(pidFile); exec sleep 100"])
      try LibNBD.run("h.pwrite(b'x' * 65536, 0); os._exit(0)", daemon.ingestURI("vda"))
      while access(pidFile, F_OK) != 0 { sched_yield() }
      kill(daemon.child.processID, SIGTERM)
      try daemon.child.waitForErrorLine(containing: "another signal ends at once", within: .seconds(60))
      #expect(!daemon.child.hasEnded(within: .milliseconds(50)))
      kill(daemon.child.processID, SIGTERM)
      #expect(daemon.child.hasEnded(within: .seconds(60)), "whatever COMMAND does")
      // It holds the daemon's stderr, which is read to its end.
      let command = try Int32(String(contentsOfFile: pidFile, encoding: .utf8).filter(\.isNumber))
      if let command { kill(command, SIGKILL) }
      #expect(try daemon.child.finish(within: .seconds(60)).status == .exited(1))
      let next = try SpillwayDaemon(journal: journal, disks: [], in: directory)
      try LibNBD.run("assert h.pread(65536, 0) == b'x' * 65536", next.ingestURI("vda"))
      try next.shutDown()
    }
  }
}
