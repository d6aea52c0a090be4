import Foundation
import Peers
import QEMUMonitor
import TestKit

/// A conversation with a script that plays the agent in the guest, as qemu passes it on: one line for all clients.
final class PlayedAgent {
  private let child: ChildProcess
  private let agent: GuestAgentConnection

  /// The agent says `leavings` (with Python's escapes) when somebody connects, and then answers each command by
  /// `answers`. An empty answer comes late, before that to the next sync; what is not in there is refused.
  init(leavings: String, answers: [String: String], in directory: TemporaryDirectory) throws {
    let path = directory.file("agent.sock")
    let table = String(decoding: try JSONEncoder().encode(answers), as: UTF8.self)
    child = try Program.python.start([
      "-c",
      """
      import json, socket, sys
      answers = json.loads(sys.argv[2])
      server = socket.socket(socket.AF_UNIX)
      server.bind(sys.argv[1])
      server.listen(1)
      print("listening", file=sys.stderr, flush=True)
      client = server.accept()[0]
      client.sendall(b'\(leavings)')
      late = b''
      for line in client.makefile("rb"):
          # What came before the byte FF is forgotten.
          request = json.loads(line.split(b'\\xff')[-1])
          name = request["execute"]
          if name == "guest-sync-delimited":
              client.sendall(late + b'\\xff{"return": %d}\\n' % request["arguments"]["id"])
              late = b''
          elif name not in answers:
              client.sendall(b'{"error": {"class": "CommandNotFound", "desc": "not here"}}\\n')
          elif answers[name] == "":
              late = b'{"return": {}}\\n'
          else:
              client.sendall(answers[name].encode() + b'\\n')
      """, path, table,
    ])
    try child.waitForErrorLine(containing: "listening", within: .seconds(30))
    agent = try GuestAgentConnection(connectingTo: path)
  }

  deinit { child.kill() }
}

extension PlayedAgent: GuestAgent {
  func execute(_ command: String, arguments: JSONValue?, within limit: Duration) throws(QMPError) -> JSONValue
  {
    try agent.execute(command, arguments: arguments, within: limit)
  }
}
