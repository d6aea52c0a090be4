internal import NBDProtocol
package import NBDServer

/// What `--tls` and its companions ask for, checked as far as that goes without opening a file.
package struct TLSSpecification: Sendable, Equatable {
  /// Whether clients have to use TLS, or only may.
  package var isRequired: Bool
  /// The disks that are served only to clients that use it.
  package var onlyDisks: Set<String>
  /// What the server proves itself with.
  package var secret: Secret

  /// Where certificates or keys lie; paths are absolute.
  package enum Secret: Sendable, Equatable {
    case certificates(directory: String, verifiesPeer: Bool)
    case keys(file: String)
  }

  /// Nil when TLS is off. Relative paths are seen from `currentDirectory`.
  package init?(_ arguments: ServeArguments, currentDirectory: String) throws(ServiceError) {
    let mode = arguments.tls ?? TLSPolicy.off.rawValue
    guard let policy = TLSPolicy(rawValue: mode) else {
      throw .usage("--tls \(mode): say off, on or require")
    }
    let hasCompanion =
      arguments.tlsCertificates != nil || arguments.tlsKeys != nil || arguments.tlsVerifyPeer
      || !arguments.tlsOnly.isEmpty
    guard policy != .off else {
      if hasCompanion { throw .usage("certificates, keys and --tls-only need --tls on or --tls require") }
      return nil
    }
    isRequired = policy == .require
    onlyDisks = []
    for disk in arguments.tlsOnly {
      onlyDisks.insert(try DiskSpecification.checkedName(disk, context: "--tls-only \(disk)"))
    }
    switch (arguments.tlsCertificates, arguments.tlsKeys) {
    case (let directory?, nil):
      secret = .certificates(
        directory: AbsolutePath.of(directory, in: currentDirectory), verifiesPeer: arguments.tlsVerifyPeer)
    case (nil, let file?):
      guard !arguments.tlsVerifyPeer else {
        throw .usage("--tls-verify-peer needs --tls-certificates; who has a key has proved enough")
      }
      secret = .keys(file: AbsolutePath.of(file, in: currentDirectory))
    case (nil, nil): throw .usage("--tls \(mode) needs --tls-certificates DIR or --tls-psk FILE")
    case (_?, _?): throw .usage("--tls-certificates and --tls-psk exclude each other")
    }
  }

  /// Fails when a disk that is to be served only behind TLS is none of `disks`: a typing error must not serve the one that
  /// was meant in the clear.
  package func check(_ disks: [String]) throws(ServiceError) {
    if let missing = onlyDisks.sorted().first(where: { !disks.contains($0) }) {
      throw .usage("--tls-only \(missing): there is no such disk")
    }
  }

  /// Whether clients of the exports of `disk` have to use TLS.
  package func isRequired(for disk: String) -> Bool { isRequired || onlyDisks.contains(disk) }

  /// Reads the certificates, or makes sure that the keys can be read.
  package func load() throws(ServiceError) -> TLSSettings {
    do throws(ServerError) {
      let credentials =
        switch secret {
        case .certificates(let directory, let verifiesPeer):
          try TLSCredentials(certificates: directory, verifyingPeer: verifiesPeer)
        case .keys(let file): try TLSCredentials(keys: file)
        }
      return TLSSettings(policy: isRequired ? .require : .on, credentials: credentials)
    } catch {
      throw .failed("TLS: \(error.description)")
    }
  }
}
