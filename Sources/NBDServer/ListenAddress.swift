/// Where a server listens. It prints as users write it: `unix:PATH` or `tcp:HOST:PORT`.
package enum ListenAddress: Sendable, Hashable, CustomStringConvertible {
  /// A socket file.
  case unix(path: String)
  /// A host name or address ("" is every interface) and a port (0 is any that is free).
  case tcp(host: String, port: UInt16)

  /// The address as users write it, an IPv6 host in brackets: `tcp:[::1]:10809`.
  package var description: String {
    switch self {
    case .unix(let path): "unix:\(path)"
    case .tcp(let host, let port): host.contains(":") ? "tcp:[\(host)]:\(port)" : "tcp:\(host):\(port)"
    }
  }
}
