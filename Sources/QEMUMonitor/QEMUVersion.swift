/// Which qemu it is; for messages, never for decisions (`QEMUSchema` is for those).
package struct QEMUVersion: Sendable, Equatable, CustomStringConvertible {
  /// As in 7.2.22.
  package var major: Int
  /// As in 7.2.22.
  package var minor: Int
  /// As in 7.2.22.
  package var micro: Int
  /// What the distributor calls it; may be empty.
  package var package: String

  package var description: String {
    "\(major).\(minor).\(micro)" + (package.isEmpty ? "" : " (\(package))")
  }
}

extension QEMUVersion: Decodable {
  private enum CodingKeys: String, CodingKey { case qemu, package }
  private struct Numbers: Decodable { var major, minor, micro: Int }

  package init(from decoder: any Decoder) throws {
    let container = try decoder.container(keyedBy: CodingKeys.self)
    let numbers = try container.decode(Numbers.self, forKey: .qemu)
    (major, minor, micro) = (numbers.major, numbers.minor, numbers.micro)
    package = try container.decode(String.self, forKey: .package)
  }
}

extension Monitor {
  /// Asks qemu for its version.
  package func version() throws(QMPError) -> QEMUVersion {
    try execute("query-version", as: QEMUVersion.self)
  }
}
