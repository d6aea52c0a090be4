internal import Bytes
internal import Glibc

/// Why a conversation over a monitor socket failed.
package enum QMPError: Error, Sendable, Equatable {
  /// The socket could not be reached.
  case cannotConnect(path: String, errno: Int32)
  /// The socket failed in the middle of `operation`.
  case socketFailed(operation: String, errno: Int32)
  /// The other side closed the socket while we waited for `awaited`.
  case closed(awaited: String)
  /// `awaited` did not come in time. The connection stays usable: a late reply is recognised by its id and dropped.
  case timedOut(awaited: String)
  /// What came is not a message of this dialect.
  case malformed(line: String)
  /// The other side understood the command and refused it.
  case refused(command: String, class: String, description: String)
  /// A job ended, and not well.
  case jobFailed(id: String, description: String)
  /// The socket took the connection and said nothing: qemu talks to one client at a time, and that is another.
  case occupied(path: String)
  /// qemu's only NBD server runs already.
  case nbdServerRunning
  /// Neither a node nor a device is called so; those that exist are `known`.
  case noSuchNode(name: String, known: [String])
  /// A program that we need cannot be run.
  case cannotRun(program: String, errno: Int32)
  /// A program that we ran failed, in its own words.
  case programFailed(program: String, description: String)
  /// The agent in the guest does not answer; perhaps none runs.
  case agentSilent(path: String)
}

extension QMPError: CustomStringConvertible {
  package var description: String {
    switch self {
    case .cannotConnect(let path, let errno):
      return "cannot connect to the monitor at \(path): \(SystemError.text(errno))"
    case .socketFailed(let operation, let errno):
      return "monitor: \(operation) failed: \(SystemError.text(errno))"
    case .closed(let awaited):
      return "the monitor closed the connection while \(awaited) was awaited"
    case .timedOut(let awaited):
      return "the monitor sent no \(awaited) in time"
    case .malformed(let line):
      return "not a monitor message: \(line.prefix(200))"
    case .refused(let command, let errorClass, let description):
      return "\(command) was refused: \(description) (\(errorClass))"
    case .jobFailed(let id, let description):
      return "job \(id) failed: \(description)"
    case .occupied(let path):
      return "another program holds the monitor at \(path): qemu talks to one at a time"
    case .nbdServerRunning:
      return "qemu's NBD server is already running"
    case .noSuchNode(let name, let known):
      return
        "qemu has no disk called \(name); it has \(known.isEmpty ? "none" : known.joined(separator: ", "))"
    case .cannotRun("virsh", ENOENT):
      return "virsh is not installed; libvirt's domains are reached through it (Debian: libvirt-clients)"
    case .cannotRun(let program, let errno):
      return "\(program) cannot be run: \(SystemError.text(errno))"
    case .programFailed(let program, let description):
      return "\(program) failed: \(description)"
    case .agentSilent(let path):
      return "the guest's agent at \(path) does not answer; is qemu-guest-agent running in the guest?"
    }
  }
}
