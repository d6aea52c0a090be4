/// How `spillway replay` is to write.
package struct ReplayOptions: Sendable {
  /// The generation that OUTPUT holds already; only what changed since is written.
  package var since: String?
  /// Whether OUTPUT is read back and compared.
  package var verifies = false
  /// Whether a regular file that is not empty is overwritten.
  package var force = false
  /// Whether a generation that is not whole is written all the same.
  package var tainted = false

  /// Everything, to a fresh output, unverified.
  package init() {}
}
