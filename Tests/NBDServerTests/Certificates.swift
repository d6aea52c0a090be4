import Foundation
import Testing

/// Certificates and keys as qemu, nbdkit and libnbd lay them out, made once by certtool.
final class Certificates: Sendable {
  /// ca-cert.pem, server-cert.pem, server-key.pem, client-cert.pem and client-key.pem.
  let directory: String
  /// The same for a client that another authority has signed.
  let strangers: String
  /// Lines of USER:KEY, and one with another key for the same user.
  let keys: String
  let wrongKeys: String

  static let shared = Result { try Certificates() }

  private init() throws {
    directory = Bench.temporaryDirectory()
    strangers = Bench.temporaryDirectory()
    (keys, wrongKeys) = (directory + "/keys.psk", strangers + "/keys.psk")
    for folder in [directory, strangers] { try Self.make(in: folder) }
    try Self.write("alice:0123456789abcdef0123456789abcdef\n", keys)
    try Self.write("alice:ffffffffffffffffffffffffffffffff\n", wrongKeys)
    // The client trusts the right server; only who signed its own certificate differs.
    try FileManager.default.removeItem(atPath: strangers + "/ca-cert.pem")
    try FileManager.default.copyItem(atPath: directory + "/ca-cert.pem", toPath: strangers + "/ca-cert.pem")
    let folders = [directory, strangers]
    Self.remove(at: folders)
  }

  private static func write(_ text: String, _ path: String) throws {
    try text.write(toFile: path, atomically: true, encoding: .utf8)
  }

  private static func make(in folder: String) throws {
    try write("cn = \"authority\"\nca\ncert_signing_key\nexpiration_days = 9\n", folder + "/ca.info")
    try write(
      "cn = \"localhost\"\ndns_name = \"localhost\"\nip_address = \"127.0.0.1\"\ntls_www_server\nsigning_key\nexpiration_days = 9\n",
      folder + "/server.info")
    try write("cn = \"client\"\ntls_www_client\nsigning_key\nexpiration_days = 9\n", folder + "/client.info")
    for name in ["ca", "server", "client"] {
      let key = try Client.run(
        "certtool", "--generate-privkey", "--key-type=ecdsa", "--outfile=\(folder)/\(name)-key.pem")
      #expect(key.status == 0, "\(key.output)")
    }
    let ca = try Client.run(
      "certtool", "--generate-self-signed", "--load-privkey=\(folder)/ca-key.pem",
      "--template=\(folder)/ca.info", "--outfile=\(folder)/ca-cert.pem")
    #expect(ca.status == 0, "\(ca.output)")
    for name in ["server", "client"] {
      let made = try Client.run(
        "certtool", "--generate-certificate", "--load-ca-certificate=\(folder)/ca-cert.pem",
        "--load-ca-privkey=\(folder)/ca-key.pem", "--load-privkey=\(folder)/\(name)-key.pem",
        "--template=\(folder)/\(name).info", "--outfile=\(folder)/\(name)-cert.pem")
      #expect(made.status == 0, "\(made.output)")
    }
  }

  /// Removes `folders` when the process ends.
  private static func remove(at folders: [String]) {
    rememberedFolders += folders
    atexit {
      for folder in Certificates.rememberedFolders { try? FileManager.default.removeItem(atPath: folder) }
    }
  }

  // Written once, by the one initialiser of `shared`.
  nonisolated(unsafe) private static var rememberedFolders: [String] = []
}
