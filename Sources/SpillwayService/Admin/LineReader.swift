/// Cuts what a socket delivers into lines of bounded length.
package struct LineReader {
  /// What came next.
  package enum Line: Equatable {
    /// A line without its end.
    case line([UInt8])
    /// The line is longer than the limit; nothing after it can be read.
    case tooLong
    /// The other side has closed, or the connection broke.
    case end
  }

  /// The longest line of the admin protocol in bytes, without its end.
  package static let byteCountMax = 64 << 10

  private let socket: StreamSocket
  private var buffer: [UInt8] = []
  private let limit: Int

  /// Reads lines of at most `limit` bytes from `socket`.
  package init(_ socket: StreamSocket, limit: Int = Self.byteCountMax) {
    self.socket = socket
    self.limit = limit
  }

  /// The next line that is not blank.
  package mutating func next() -> Line {
    var searched = 0
    while true {
      if let newline = buffer[searched...].firstIndex(of: UInt8(ascii: "\n")) {
        let line = buffer[..<newline].filter { $0 != UInt8(ascii: "\r") }
        guard newline <= limit else { return .tooLong }
        buffer.removeFirst(newline + 1)
        searched = 0
        if line.allSatisfy({ $0 == UInt8(ascii: " ") || $0 == UInt8(ascii: "\t") }) { continue }
        return .line(Array(line))
      }
      searched = buffer.count
      guard buffer.count <= limit else { return .tooLong }
      guard socket.receive(into: &buffer) else { return .end }
    }
  }
}
