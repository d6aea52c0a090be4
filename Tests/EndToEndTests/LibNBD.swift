import Glibc
import Peers

/// libnbd through its Python module: the client whose every request a test can place.
///
/// Scripts find `h` connected to the first URI and all URIs in `uris`. `expect_error(ERRNO, action)` expects a request
/// to fail; `tell(WORDS)` says something that the test waits for as a line of stderr.
enum LibNBD {
  private static let opening = """
    import nbd, os, random, signal, sys
    uris = sys.argv[1:]
    def connect(uri):
        handle = nbd.NBD(); handle.connect_uri(uri); return handle
    def tell(words): print(words, file=sys.stderr, flush=True)
    def expect_error(errno, action):
        try: action()
        except nbd.Error as error: assert error.errno == errno, error
        else: raise AssertionError("it did not fail with " + errno)

    """

  /// Runs `script` to its end and expects success.
  static func run(_ script: String, _ uris: String...) throws {
    try start(script, uris).finish(within: .seconds(240)).succeeded()
  }

  /// Starts `script`.
  static func start(_ script: String, _ uris: String...) throws -> ChildProcess { try start(script, uris) }

  /// Runs a script that waits for SIGUSR1 (`signal.sigwait`) after it has told `word`, and calls `body` meanwhile.
  static func run(
    _ script: String, _ uris: String..., while word: String, body: () throws -> Void
  ) throws {
    let blocked = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n"
    let child = try start(blocked + script, uris)
    try child.waitForErrorLine(containing: word, within: .seconds(120))
    try body()
    child.send(SIGUSR1)
    try child.finish(within: .seconds(240)).succeeded()
  }

  /// The text of a program that runs `script` without a connection, SIGUSR1 blocked so that it can wait for it.
  static func unconnected(_ script: String) -> String {
    opening + "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n" + script
  }

  /// Starts `script` without a connection: nobody may be listening yet.
  static func startUnconnected(_ script: String, _ uris: String...) throws -> ChildProcess {
    try Program.python.start(["-c", opening + script] + uris)
  }

  /// All of the program that `script` becomes; the URIs, and whatever else it finds in `uris`, are its arguments.
  static func script(_ script: String) -> String { opening + "h = connect(uris[0])\n" + script }

  private static func start(_ script: String, _ uris: [String]) throws -> ChildProcess {
    try Program.python.start(["-c", Self.script(script)] + uris)
  }
}
