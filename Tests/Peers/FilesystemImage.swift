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
    var roots = ["/usr/share", "/usr/include", "/usr/lib/python3"]
    try copyFiles(.text, from: roots, to: "\(tree)/text", upTo: 3 * share)
    roots = ["/usr/bin", "/usr/lib/x86_64-linux-gnu", "/usr/lib", "/usr/libexec"]
    try copyFiles(.program, from: roots, to: "\(tree)/programs", upTo: 5 * share)
    // What is compressed already cannot be compressed again: the part of a disk that no journal can shrink.
    try copyFiles(.program, from: roots.reversed(), to: "\(tree)/compressed", upTo: 2 * share)
    let packed = try FileManager.default.contentsOfDirectory(atPath: "\(tree)/compressed")
    try Program.gzip.run(["-1", "-f"] + packed.map { "\(tree)/compressed/\($0)" })

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
/// same machine each time. Files that an ordinary user may not read are left out.
private func copyFiles(_ kind: Kind, from roots: [String], to target: String, upTo bytesMax: UInt64) throws {
  let files = FileManager.default
  try files.createDirectory(atPath: target, withIntermediateDirectories: true)
  var copied: UInt64 = 0
  var number = 0
  for root in roots {
    for name in (files.enumerator(atPath: root)?.compactMap { $0 as? String } ?? []).sorted() {
      guard copied < bytesMax else { return }
      let source = "\(root)/\(name)"
      var about = stat()
      guard lstat(source, &about) == 0, about.st_mode & S_IFMT == S_IFREG, access(source, R_OK) == 0 else {
        continue
      }
      let size = UInt64(about.st_size)
      guard size >= 4096, size <= bytesMax / 4, copied + size <= bytesMax, Kind(source) == kind else {
        continue
      }
      number += 1
      try files.copyItem(atPath: source, toPath: "\(target)/\(number)-\(name.split(separator: "/").last!)")
      copied += size
    }
  }
}
