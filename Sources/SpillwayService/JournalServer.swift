/// What the daemon needs of the server on the wire.
package protocol WireServer: Sendable {
  /// Serves the exports (`viewsOnly`: the views) at `address`, replacing the socket that a dead process left
  /// there. Returns the address with the port that was chosen if it was 0.
  func listen(on address: SocketAddress, viewsOnly: Bool) throws(ServiceError) -> SocketAddress
  /// Accepts nobody any more, removes its sockets' paths, drops every connection and returns when their
  /// threads are gone.
  func stop()
}

extension Daemon {
  /// A daemon that serves its journal's exports over NBD.
  package convenience init(_ configuration: ServeConfiguration) {
    self.init(configuration) { _, _, _ throws(ServiceError) in
      throw .failed("this build has no NBD server")
    }
  }
}
