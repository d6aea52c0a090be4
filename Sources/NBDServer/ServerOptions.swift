internal import NBDProtocol

/// The bounds of a server, and what it asks of its clients.
package struct ServerOptions: Sendable {
  /// Connections open at once, over all listeners. One more is closed as soon as it is accepted.
  package var connectionsMax = 4096
  /// How long a negotiation may take, from accept to NBD_OPT_GO.
  package var handshakeNanoseconds: UInt64 = 10_000_000_000
  /// Parked reads, over all connections. A connection that goes beyond is not read until one is answered.
  package var parkedReadsMax = 131_072
  /// Memory for the data of reads, over all connections. At least one request must fit: 64 MiB.
  package var payloadBytesMax = 64 << 20

  /// Whether and how clients use TLS; nil when they cannot.
  package var tls: TLSSettings?

  /// The bounds of `serve` when nothing else was asked for.
  package init() {}
}

/// How much a log line matters.
package enum ServerLogLevel: String, Sendable {
  case debug
  case info
  case warning
  case error
}

/// Takes the server's log lines. Called from any of its threads.
package typealias ServerLog = @Sendable (ServerLogLevel, String) -> Void

/// What a server is busy with.
package struct ServerCounts: Sendable, Equatable {
  /// Connections open now, over all listeners.
  package var connectionsOpen: Int
  /// Reads parked now, over all connections.
  package var readsParked: Int
}

/// Why a server could not listen.
package struct ServerError: Error, Sendable, CustomStringConvertible {
  /// A sentence that names the address.
  package let description: String

  init(_ description: String) {
    self.description = description
  }
}
