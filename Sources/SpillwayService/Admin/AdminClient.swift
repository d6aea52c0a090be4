/// A tool's connection to the daemon's admin socket.
package final class AdminClient {
  private let socket: StreamSocket
  private var lines: LineReader

  /// Connects to the daemon at `address`, which it recorded in the journal directory (`unix:PATH`).
  package init(address: String) throws(ServiceError) {
    guard address.hasPrefix("unix:") else {
      throw .failed(
        "the daemon's admin address \(address) is not understood; is it another version of spillway?")
    }
    socket = try StreamSocket.connect(path: String(address.dropFirst("unix:".count)))
    lines = LineReader(socket, limit: Self.replyByteCountMax)
    let greeting = try receive()
    guard greeting["QMP"] != nil else {
      _ = try AdminReply.outcome(of: greeting)
      throw .failed("whoever listens at \(address) does not speak as spillway does")
    }
  }

  /// The longest reply in bytes: the status of thousands of disks fits.
  package static let replyByteCountMax = 16 << 20

  /// Asks for `command` and waits for its result. The daemon's own error is thrown as it worded it.
  package func execute(
    _ command: String, _ arguments: [String: JSONValue] = [:]
  ) throws(ServiceError) -> JSONValue {
    let request = try AdminRequest(command, arguments: arguments).json.text() + "\n"
    guard socket.send(Array(request.utf8)) else { throw Self.connectionLost(command) }
    return try AdminReply.outcome(of: receive(during: command))
  }

  private func receive(during command: String = "the greeting") throws(ServiceError) -> JSONValue {
    guard case .line(let line) = lines.next() else { throw Self.connectionLost(command) }
    guard let value = JSONValue(parsing: line) else {
      throw .failed("the daemon's answer is not understood; is it another version of spillway?")
    }
    return value
  }

  private static func connectionLost(_ command: String) -> ServiceError {
    .failed("the daemon closed the connection during \(command); look at its log, then try again")
  }
}
