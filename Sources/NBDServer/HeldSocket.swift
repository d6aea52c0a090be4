internal import Bytes
internal import Glibc

/// A listening socket that its owner holds and does not serve: clients connect, and wait in its queue until somebody
/// serves it who got the descriptor (another process, or a `Server` of this one).
///
/// So the server behind an address can die and be started again without a client being refused. The socket's file goes
/// with the object.
package final class HeldSocket: Sendable {
  private let sockets: ListeningSockets

  /// Binds `address`, a unix socket of mode 0600; a socket file that nobody listens on is taken over.
  package init(binding address: ListenAddress) throws(ServerError) {
    sockets = try ListeningSockets(address)
  }

  /// What a child process is to inherit. Open as long as the object lives; closed in programs that are started.
  package var descriptor: Int32 { sockets.descriptors[0] }

  /// A descriptor of the same socket for a `Server` to take over.
  package func duplicate() throws(ServerError) -> Int32 {
    let copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 0)
    if copy < 0 { throw ServerError("\(sockets.address): dup: \(SystemError.text(errno))") }
    return copy
  }
}
