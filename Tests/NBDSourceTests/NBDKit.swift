import Peers
import TestKit

/// A real NBD server that is not ours, on a unix socket of its own.
final class NBDKit {
  private(set) var child: ChildProcess
  let uri: String
  private let arguments: [String]

  /// Starts it with `arguments` (filters, plugin, its parameters) and returns when it listens.
  init(_ arguments: [String], in directory: TemporaryDirectory) throws {
    let socket = directory.file("nbdkit.sock")
    self.arguments = ["--foreground", "--verbose", "--unix", socket] + arguments
    uri = "nbd+unix:///?socket=\(socket)"
    child = try Self.start(self.arguments)
  }

  deinit { child.kill() }

  /// Kills it and starts the same again.
  func restart() throws {
    child.kill()
    // It refuses to bind to a path that is there, and its killed self left one.
    try Program.python.run(["-c", "import os, sys; os.unlink(sys.argv[1])", arguments[3]])
    child = try Self.start(arguments)
  }

  private static func start(_ arguments: [String]) throws -> ChildProcess {
    let child = try Program.nbdkit.start(arguments)
    // Its debug log is the only thing that says when it listens.
    try child.waitForErrorLine(containing: "bound to unix socket", within: .seconds(30))
    return child
  }
}
