package import TestKit
import Foundation
import Glibc

/// A raw image with a real ext4 in it, filled with files of this machine: text, programs, compressed files, and
/// free space that was never written.
package struct FilesystemImage: Sendable {
  package let path: String
  package let byteCount: UInt64

  /// Makes an image of `byteCount` bytes at `path`; up to 5/8 of it are files. Scratch goes to `directory`.
  package init(at path: String, byteCount: UInt64, scratch directory: TemporaryDirectory) throws {
    (self.path, self.byteCount) = (path, byteCount)
    let tree = directory.file("tree")
    let share = byteCount / 16
    try copyFiles(
      .text, from: ["/usr/share", "/usr/include", "/usr/lib/python3"], to: "\(tree)/text", upTo: 3 * share)
    try copyFiles(
      .program, from: ["/usr/bin", "/usr/lib/x86_64-linux-gnu"], to: "\(tree)/programs", upTo: 5 * share)
    // What is compressed already cannot be compressed again: the part of a disk that no journal can shrink.
    try copyFiles(.program, from: ["/usr/sbin", "/usr/lib"], to: "\(tree)/compressed", upTo: 2 * share)
    try Program.gzip.run(["-1", "-r", "\(tree)/compressed"])

    let descriptor = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
    guard descriptor >= 0, ftruncate(descriptor, Int(byteCount)) == 0 else {
      throw PeerError("cannot make \(path): \(String(cString: strerror(errno)))")
    }
    close(descriptor)
    try Program.mke2fs.run(["-q", "-F", "-t", "ext4", "-L", "spillway", "-d", tree, path])
    try FileManager.default.removeItem(atPath: tree)
  }
}

private enum Kind {
  case text
  case program
  case other

  /// Told by the first bytes, as file(1) does.
  init(_ path: String) {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else {
      self = .other
      return
    }
    defer { close(descriptor) }
    var start = [UInt8](repeating: 0, count: 512)
    let count = max(read(descriptor, &start, start.count), 0)
    if start.starts(with: [0x7f, 0x45, 0x4c, 0x46]) {
      self = .program
    } else {
      self = start[..<count].allSatisfy { $0 >= 9 } ? .text : .other
    }
  }
}

/// Copies files of one kind, in the order of their names, until `bytesMax` is reached: the same choice on the
/// same machine each time. Files that we may not read are left out.
private func copyFiles(_ kind: Kind, from roots: [String], to target: String, upTo bytesMax: UInt64) throws {
  try FileManager.default.createDirectory(atPath: target, withIntermediateDirectories: true)
  var copied: UInt64 = 0
  var number = 0

  func visit(_ path: String) throws {
    var about = stat()
    guard copied < bytesMax, lstat(path, &about) == 0, access(path, R_OK) == 0 else { return }
    if about.st_mode & S_IFMT == S_IFDIR {
      for name in try FileManager.default.contentsOfDirectory(atPath: path).sorted() {
        try visit("\(path)/\(name)")
      }
    } else if about.st_mode & S_IFMT == S_IFREG {
      let size = UInt64(about.st_size)
      guard size >= 4096, size <= bytesMax / 4, copied + size <= bytesMax, Kind(path) == kind else { return }
      number += 1
      let copy = "\(target)/\(number)-\(path.split(separator: "/").last!)"
      try FileManager.default.copyItem(atPath: path, toPath: copy)
      // A set-user-ID bit, or a missing permission to write, would only be in the way.
      chmod(copy, 0o644)
      copied += size
    }
  }
  for root in roots { try visit(root) }
}
