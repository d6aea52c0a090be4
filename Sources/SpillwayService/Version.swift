/// The version of this program.
package enum Version {
  package static let major = 0
  package static let minor = 1
  package static let patch = 0
  /// As `--version` and the admin greeting print it.
  package static let text = "\(major).\(minor).\(patch)"
}
