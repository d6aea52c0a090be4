import Glibc

/// Compares files byte for byte.
package enum FileComparison {
  /// Where and how `copy` first differs from `original`, in words; nil when they are equal.
  package static func firstDifference(_ original: String, _ copy: String) throws -> String? {
    let left = try OpenFile(original)
    let right = try OpenFile(copy)
    guard left.byteCount == right.byteCount else {
      return "\(copy) has \(right.byteCount) bytes, \(original) has \(left.byteCount)"
    }
    let chunkBytes = 1 << 20
    var a = [UInt8](repeating: 0, count: chunkBytes)
    var b = a
    var offset: Int64 = 0
    while offset < left.byteCount {
      let count = Int(min(Int64(chunkBytes), left.byteCount - offset))
      try left.read(&a, count, at: offset)
      try right.read(&b, count, at: offset)
      if memcmp(a, b, count) != 0 {
        let at = (0..<count).first { a[$0] != b[$0] }!
        let bytes = (a[at..<min(at + 8, count)], b[at..<min(at + 8, count)])
        return "\(copy) differs from \(original) from byte \(offset + Int64(at)) on: "
          + "\(hex(bytes.1)) instead of \(hex(bytes.0))"
      }
      offset += Int64(count)
    }
    return nil
  }

  private static func hex(_ bytes: ArraySlice<UInt8>) -> String {
    bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined(separator: " ")
  }
}

private final class OpenFile {
  let path: String
  let descriptor: Int32
  let byteCount: Int64

  init(_ path: String) throws {
    self.path = path
    descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { throw PeerError("cannot open \(path): \(String(cString: strerror(errno)))") }
    byteCount = Int64(lseek(descriptor, 0, SEEK_END))
  }

  deinit { close(descriptor) }

  func read(_ target: inout [UInt8], _ count: Int, at offset: Int64) throws {
    guard pread(descriptor, &target, count, Int(offset)) == count else {
      throw PeerError("cannot read \(count) bytes at \(offset) of \(path)")
    }
  }
}
