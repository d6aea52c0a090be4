internal import Bytes
package import QEMUMonitor

/// A tool's connection to the daemon's admin socket: a monitor connection whose refusals are the daemon's verdict.
package final class AdminClient {
  private let connection: QMPConnection

  /// Connects to the daemon at `address`, which it recorded in the journal directory (`unix:PATH`).
  package init(address: String) throws(ServiceError) {
    guard address.hasPrefix("unix:") else {
      throw .failed(
        "the daemon's admin address \(address) is not understood; is it another version of spillway?")
    }
    do throws(QMPError) {
      connection = try QMPConnection(connectingTo: String(address.dropFirst("unix:".count)))
    } catch {
      throw ServiceError(error)
    }
    // A flush or a shutdown takes as long as the disk does. Who does not want to wait interrupts the tool.
    connection.timeout = nil
  }

  /// Asks for `command` and waits for its result. The daemon's own error is thrown as it worded it.
  package func execute(
    _ command: String, _ arguments: [String: JSONValue] = [:]
  ) throws(ServiceError) -> JSONValue {
    do throws(QMPError) {
      return try connection.execute(command, arguments: arguments.isEmpty ? nil : .object(arguments))
    } catch {
      throw ServiceError(error)
    }
  }
}

extension ServiceError {
  /// What a line is told that is no answer of ours.
  static let notUnderstood = ServiceError.failed(
    "the daemon's answer is not understood; is it another version of spillway?")

  /// What a tool says of a conversation with the daemon that failed.
  fileprivate init(_ error: QMPError) {
    switch error {
    case .cannotConnect(let path, let code):
      self = .failed("cannot reach \(path) (\(SystemError.text(code)))")
    case .closed(let awaited):
      self = .failed(
        "the daemon closed the connection (awaited: \(awaited)); look at its log, then try again")
    case .occupied(let path):
      self = .failed("the daemon at \(path) sent no greeting in time; look at its log, then try again")
    case .timedOut(let awaited):
      self = .failed("the daemon sent no \(awaited) in time; look at its log, then try again")
    case .refused(_, let word, let description):
      self.init(ExitStatus(word: word), description)
    case .malformed:
      self = .notUnderstood
    case .socketFailed, .jobFailed, .nbdServerRunning, .noSuchNode, .cannotRun, .programFailed,
      .agentSilent:
      self = .failed(error.description)
    }
  }
}
