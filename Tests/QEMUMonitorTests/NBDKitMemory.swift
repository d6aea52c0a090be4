import Peers
import TestKit

/// nbdkit with a disk in memory: somebody else's NBD server, to tell our faults from qemu's.
final class NBDKitMemory {
  let child: ChildProcess
  let socket: String
  var uri: String { "nbd+unix:///?socket=\(socket)" }

  deinit { child.kill() }

  init(byteCount: UInt64, name: String = "nbdkit", in directory: TemporaryDirectory) throws {
    socket = directory.file("\(name).sock")
    child = try Program.nbdkit.start([
      "--foreground", "--verbose", "--unix", socket, "memory", "size=\(byteCount)",
    ])
    // Its debug log is the only thing that says when it listens.
    try child.waitForErrorLine(containing: "bound to unix socket", within: .seconds(30))
  }
}
