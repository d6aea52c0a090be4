/// Where a server listens: `unix:PATH` or `tcp:HOST:PORT`.
package enum ListenAddress: Sendable, Equatable, CustomStringConvertible {
  /// A socket file.
  case unix(path: String)
  /// A host name or address ("" is every interface) and a port (0 is any that is free).
  case tcp(host: String, port: UInt16)

  /// The address that `text` names, or nil. An IPv6 host stands in brackets: `tcp:[::1]:10809`.
  package init?(_ text: String) {
    if text.hasPrefix("unix:") {
      let path = String(text.dropFirst(5))
      guard !path.isEmpty else { return nil }
      self = .unix(path: path)
      return
    }
    guard text.hasPrefix("tcp:"), let colon = text.lastIndex(of: ":"),
      let port = UInt16(text[colon...].dropFirst())
    else { return nil }
    var host = text[..<colon].dropFirst(4)
    if host.hasPrefix("["), host.hasSuffix("]") {
      host = host.dropFirst().dropLast()
    } else if host.contains(":") {
      return nil
    }
    self = .tcp(host: String(host), port: port)
  }

  /// The address as `init` takes it.
  package var description: String {
    switch self {
    case .unix(let path): "unix:\(path)"
    case .tcp(let host, let port): host.contains(":") ? "tcp:[\(host)]:\(port)" : "tcp:\(host):\(port)"
    }
  }
}
