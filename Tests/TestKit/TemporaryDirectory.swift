import Foundation
import Glibc

/// A directory that goes with its owner. Its path is short, since sockets live in it (107 bytes at most).
package final class TemporaryDirectory: Sendable {
  package let path: String

  /// A new directory in `root`; nil: where the environment wants temporary files.
  package init(in root: String? = nil) throws {
    let root = root ?? ProcessInfo.processInfo.environment["TMPDIR"] ?? "/tmp"
    var template = Array("\(root)/spillway-XXXXXX".utf8CString)
    guard mkdtemp(&template) != nil else {
      throw TemporaryDirectoryError(
        description: "cannot make a directory in \(root): \(String(cString: strerror(errno)))")
    }
    path = template.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
  }

  deinit { remove() }

  /// The path of `name` in it.
  package func file(_ name: String) -> String { "\(path)/\(name)" }

  /// Removes it and all that is in it, before its time.
  package func remove() { try? FileManager.default.removeItem(atPath: path) }
}

/// Why there is no temporary directory.
package struct TemporaryDirectoryError: Error, CustomStringConvertible {
  package let description: String
}
