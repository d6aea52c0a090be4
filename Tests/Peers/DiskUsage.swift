import Foundation
import Glibc

/// What files really take on disk, as `du` counts it.
package enum DiskUsage {
  /// Bytes that the file, or everything in the directory, at `path` takes.
  package static func bytes(of path: String) -> UInt64 {
    let inside = FileManager.default.enumerator(atPath: path)?.compactMap { $0 as? String } ?? []
    return ([path] + inside.map { "\(path)/\($0)" }).reduce(0) { $0 + allocated($1) }
  }

  private static func allocated(_ path: String) -> UInt64 {
    var about = stat()
    // A file that went away in between takes nothing.
    return lstat(path, &about) == 0 ? UInt64(about.st_blocks) * 512 : 0
  }
}
