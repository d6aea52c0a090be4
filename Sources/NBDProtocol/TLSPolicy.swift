/// What a connection has to do with TLS (doc/proto.md, "TLS versions" and the modes NOTLS, SELECTIVETLS, FORCEDTLS).
package enum TLSPolicy: String, Sendable {
  /// There is none: NBD_OPT_STARTTLS gets ERR_UNSUP.
  case off
  /// Clients may use it. Exports that require it are hidden from those that do not.
  case on
  /// Before it nothing but NBD_OPT_STARTTLS and NBD_OPT_ABORT is answered.
  case require
}
