internal import CGnuTLS
internal import Glibc
package import NBDProtocol
internal import Bytes

// What a server proves itself with, and what it asks of its clients. Two layouts, those of qemu, nbdkit and libnbd:
//
// certificates   DIR/server-cert.pem  its certificate, and the chain above it
//                DIR/server-key.pem   its key
//                DIR/ca-cert.pem      who may have signed a client's certificate; needed to verify clients
//                DIR/ca-crl.pem       what they have revoked; optional
// keys           FILE                 lines of USER:HEXADECIMAL-KEY, as psktool writes them; DIR/keys.psk for a directory

/// Whether and how clients use TLS.
package struct TLSSettings: Sendable {
  /// What clients may and must do. Never `.off`.
  package var policy: TLSPolicy
  /// What the server proves itself with.
  package var credentials: TLSCredentials

  /// A server without TLS has no settings.
  package init(policy: TLSPolicy, credentials: TLSCredentials) {
    precondition(policy != .off, "TLS is off where there are no settings")
    self.policy = policy
    self.credentials = credentials
  }
}

/// Certificates or keys, loaded once and used by every session.
@safe package final class TLSCredentials: @unchecked Sendable {
  // Sendable: constants, which GnuTLS only reads once they are set up.
  // SAFETY: both pointers are made by init and freed by deinit alone; each session keeps this object alive. Texts that go to C are
  // alive during the call.
  @safe private enum Secret {
    case certificates(gnutls_certificate_credentials_t, verifiesPeer: Bool)
    case keys(gnutls_psk_server_credentials_t)
  }

  private let secret: Secret
  private let priority: gnutls_priority_t

  /// The certificates in `directory`. With `verifyingPeer` only clients with a certificate that the authority there has
  /// signed get in.
  package init(certificates directory: String, verifyingPeer: Bool) throws(ServerError) {
    // SAFETY: `credentials` are freed here when something throws, and belong to `secret` otherwise.
    var made: gnutls_certificate_credentials_t?
    try unsafe Self.check(gnutls_certificate_allocate_credentials(&made), "TLS")
    guard let credentials = unsafe made else { throw ServerError("TLS: no memory for credentials") }
    do throws(ServerError) {
      let (certificate, key) = (directory + "/server-cert.pem", directory + "/server-key.pem")
      for file in [certificate, key] { try Self.requireReadable(file) }
      try unsafe Self.check(
        gnutls_certificate_set_x509_key_file(credentials, certificate, key, GNUTLS_X509_FMT_PEM), certificate)
      let authority = directory + "/ca-cert.pem"
      if verifyingPeer || Self.isThere(authority) {
        try Self.requireReadable(authority)
        try unsafe Self.check(
          gnutls_certificate_set_x509_trust_file(credentials, authority, GNUTLS_X509_FMT_PEM), authority)
      }
      let revoked = directory + "/ca-crl.pem"
      if Self.isThere(revoked) {
        try unsafe Self.check(
          gnutls_certificate_set_x509_crl_file(credentials, revoked, GNUTLS_X509_FMT_PEM), revoked)
      }
      unsafe priority = try Self.priority("")
    } catch {
      unsafe gnutls_certificate_free_credentials(credentials)
      throw error
    }
    unsafe secret = .certificates(credentials, verifiesPeer: verifyingPeer)
  }

  /// The keys in `path`: a file, or a directory with one of the name `keys.psk`. It is read anew for every client.
  package init(keys path: String) throws(ServerError) {
    var status = stat()
    let isDirectory = unsafe stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
    let file = isDirectory ? path + "/keys.psk" : path
    try Self.requireReadable(file)
    // SAFETY: as above.
    var made: gnutls_psk_server_credentials_t?
    try unsafe Self.check(gnutls_psk_allocate_server_credentials(&made), "TLS")
    guard let credentials = unsafe made else { throw ServerError("TLS: no memory for credentials") }
    do throws(ServerError) {
      try unsafe Self.check(gnutls_psk_set_server_credentials_file(credentials, file), file)
      unsafe priority = try Self.priority(":+ECDHE-PSK:+DHE-PSK:+PSK")
    } catch {
      unsafe gnutls_psk_free_server_credentials(credentials)
      throw error
    }
    unsafe secret = .keys(credentials)
  }

  deinit {
    // SAFETY: sessions hold this object, so none uses the credentials any more.
    switch secret {
    case .certificates(let credentials, _): unsafe gnutls_certificate_free_credentials(credentials)
    case .keys(let credentials): unsafe gnutls_psk_free_server_credentials(credentials)
    }
    unsafe gnutls_priority_deinit(priority)
  }

  /// Sets a new server session up. These credentials have to outlive it.
  func apply(to session: gnutls_session_t) -> Int32 {
    // SAFETY: the session refers to priority and credentials until it is freed, and its owner keeps this object until then.
    let code = unsafe gnutls_priority_set(session, priority)
    if code < 0 { return code }
    switch secret {
    case .certificates(let credentials, let verifiesPeer):
      if verifiesPeer {
        unsafe gnutls_certificate_server_set_request(session, GNUTLS_CERT_REQUIRE)
        unsafe gnutls_session_set_verify_cert(session, nil, 0)
      }
      return unsafe gnutls_credentials_set(
        session, GNUTLS_CRD_CERTIFICATE, UnsafeMutableRawPointer(credentials))
    case .keys(let credentials):
      return unsafe gnutls_credentials_set(session, GNUTLS_CRD_PSK, UnsafeMutableRawPointer(credentials))
    }
  }

  /// TLS 1.2 and 1.3, with what else `more` allows.
  private static func priority(_ more: String) throws(ServerError) -> gnutls_priority_t {
    // SAFETY: GnuTLS keeps no pointer into the text.
    var made: gnutls_priority_t?
    try unsafe check(gnutls_priority_init(&made, "NORMAL:-VERS-TLS1.0:-VERS-TLS1.1" + more, nil), "TLS")
    guard let priority = unsafe made else { throw ServerError("TLS: no memory for priorities") }
    return unsafe priority
  }

  private static func isThere(_ file: String) -> Bool { unsafe access(file, F_OK) == 0 }

  private static func requireReadable(_ file: String) throws(ServerError) {
    if unsafe access(file, R_OK) != 0 { throw ServerError("\(file): \(SystemError.text(errno))") }
  }

  private static func check(_ code: Int32, _ subject: String) throws(ServerError) {
    if code < 0 { throw ServerError("\(subject): \(TLSSession.text(code))") }
  }
}
