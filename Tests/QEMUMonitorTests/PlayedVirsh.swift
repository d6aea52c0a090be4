import Foundation
import Peers
import QEMUMonitor
import TestKit

/// A real qemu-storage-daemon behind a script that plays virsh: it sends and prints what virsh sends and prints, over two
/// monitors, for a qemu serves one client at each.
final class PlayedVirsh {
  let child: ChildProcess
  /// The script, to be run in virsh's place.
  let program: String
  /// The image that qemu holds as node `src`.
  let image: String

  /// Starts qemu over an image of `byteCount` bytes, as the domain `demo`.
  init(byteCount: UInt64, in directory: TemporaryDirectory) throws {
    image = directory.file("source.raw")
    try PatternedImage(at: image, byteCount: byteCount, seed: 1)
    let commands = directory.file("commands.sock")
    let events = directory.file("events.sock")
    child = try Program.qemuStorageDaemon.start([
      "--chardev", "socket,id=commands,path=\(commands),server=on,wait=off",
      "--monitor", "chardev=commands,mode=control",
      "--chardev", "socket,id=events,path=\(events),server=on,wait=off", "--monitor",
      "chardev=events,mode=control",
      "--blockdev", "driver=file,node-name=file,filename=\(image)",
      "--blockdev", "driver=raw,node-name=src,file=file", "--pidfile", directory.file("pid"),
    ])
    // The file is written when all that was asked for is there.
    while !FileManager.default.fileExists(atPath: directory.file("pid")) {
      guard !child.hasEnded(within: .milliseconds(5)) else {
        throw PeerError("\(child.command) ended at once: \(child.errorLines)")
      }
    }
    program = directory.file("virsh")
    let python = try Program.python.path()
    let script = """
      #!\(python)
      import json, os, socket, sys

      def fail(text):
          sys.exit("error: " + text)

      assert sys.argv[1:3] == ["-c", "qemu:///played"], sys.argv
      name, option, domain = sys.argv[3:6]
      assert option == "--domain", sys.argv
      if domain != "demo":
          fail("failed to get domain '%s'" % domain)

      def talk(path):
          client = socket.socket(socket.AF_UNIX)
          client.connect(path)
          lines = client.makefile("rw")
          lines.readline()
          say(lines, '{"execute": "qmp_capabilities"}')
          return lines

      def say(lines, text):
          lines.write(text + "\\n")
          lines.flush()
          while True:
              line = lines.readline()
              if "event" not in json.loads(line):
                  return line

      if name == "qemu-monitor-command":
          # libvirt numbers commands in its own way, and the line end is qemu's and virsh's.
          reply = json.loads(say(talk("\(commands)"), sys.argv[6]))
          print(json.dumps(dict(reply, id="libvirt-7")) + "\\n")
      elif name == "qemu-monitor-event":
          assert sys.argv[6:] == ["--loop"], sys.argv
          try:
              for line in talk("\(events)"):
                  event = json.loads(line)
                  time, data = event["timestamp"], event.get("data")
                  print("event %s at %d.%06d for domain 'demo': %s" % (
                      event["event"], time["seconds"], time["microseconds"],
                      json.dumps(data) if data else "<null>"), flush=True)
          except (OSError, ValueError):
              # qemu may have ended before it was reached, or in the midst of the greeting.
              pass
          fail("connection closed")
      elif name == "qemu-agent-command":
          assert sys.argv[6] == "--timeout", sys.argv
          command = json.loads(sys.argv[8])["execute"]
          answers = {"guest-fsfreeze-freeze": 2, "guest-fsfreeze-thaw": 2, "guest-fsfreeze-status": "thawed"}
          if command not in answers:
              fail("internal error: unable to execute QEMU agent command '%s'" % command)
          print(json.dumps({"return": answers[command]}) + "\\n")
      else:
          fail("unknown command: '%s'" % name)
      """
    // Another process writes it: a child that another test starts just now could hold a file open that we write, and what
    // is open for writing cannot be run.
    try Program.python.run([
      "-c", "import os, sys; open(sys.argv[1], 'w').write(sys.argv[2]); os.chmod(sys.argv[1], 0o755)",
      program,
      script,
    ])
  }

  deinit { child.kill() }

  /// The monitor of `domain`, through the script.
  func monitor(of domain: String = "demo") throws(QMPError) -> LibvirtMonitor {
    try LibvirtMonitor(domain: domain, connection: "qemu:///played", virsh: program)
  }
}
