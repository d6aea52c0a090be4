import Foundation
import Glibc
import Peers
import TestKit

/// A script that plays the agent in the guest. It stops at each freeze and thaw until the test lets it go on.
final class HeldAgent {
  /// The socket that qemu would offer.
  let path: String
  private let child: ChildProcess
  private let gate: Int32

  /// An agent that listens; it refuses the command `refused`.
  init(refusing refused: String = "", in directory: TemporaryDirectory) throws {
    path = directory.file("agent.sock")
    let pipe = directory.file("agent.fifo")
    guard mkfifo(pipe, 0o600) == 0 else { throw PeerError("cannot make the pipe \(pipe)") }
    gate = open(pipe, O_RDWR | O_CLOEXEC)
    guard gate >= 0 else { throw PeerError("cannot open the pipe \(pipe)") }
    child = try Program.python.start([
      "-c",
      """
      import json, socket, sys
      gate = open(sys.argv[2])
      server = socket.socket(socket.AF_UNIX)
      server.bind(sys.argv[1])
      server.listen(4)
      print("listening", file=sys.stderr, flush=True)
      while True:
          client = server.accept()[0]
          try:
            for line in client.makefile("rb"):
              request = json.loads(line.split(b'\\xff')[-1])
              name = request["execute"]
              if name == "guest-sync-delimited":
                  client.sendall(b'\\xff{"return": %d}\\n' % request["arguments"]["id"])
                  continue
              print(name, file=sys.stderr, flush=True)
              gate.readline()
              if name == sys.argv[3]:
                  client.sendall(b'{"error": {"class": "GenericError", "desc": "not now"}}\\n')
              else:
                  client.sendall(b'{"return": 2}\\n')
          except OSError: pass  # it was killed
      """, path, pipe, refused,
    ])
    try child.waitForErrorLine(containing: "listening", within: .seconds(30))
  }

  deinit {
    child.kill()
    close(gate)
  }

  /// Waits until the agent was told `command`, calls `body`, and lets the agent answer.
  func meet(_ command: String, _ body: () throws -> Void) throws {
    try child.waitForErrorLine(containing: command, within: .seconds(60))
    defer { _ = Glibc.write(gate, "\n", 1) }
    try body()
  }

  /// What it was told, without what only finds the beginning of an answer.
  var heard: [String] { child.errorLines.filter { $0.hasPrefix("guest-") } }
}
