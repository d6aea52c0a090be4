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

  /// Removes it and all that is in it, before its time; and the rings of the journals in it that were killed: 256 MiB of memory
  /// each, which nobody would open again.
  package func remove() {
    for name in FileManager.default.enumerator(atPath: path)?.compactMap({ $0 as? String }) ?? []
    where name == "journal" || name.hasSuffix("/journal") {
      guard let superblock = FileManager.default.contents(atPath: file(name)),
        let ring = String(decoding: superblock, as: UTF8.self).firstMatch(
          of: /\/dev\/shm\/spillway-[0-9a-f-]{36}\.ring/)
      else { continue }
      unlink(String(ring.output))
    }
    try? FileManager.default.removeItem(atPath: path)
  }
}

/// Why there is no temporary directory.
package struct TemporaryDirectoryError: Error, CustomStringConvertible {
  package let description: String
}
