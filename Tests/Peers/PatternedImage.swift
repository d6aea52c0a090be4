import TestKit
import Glibc

/// A raw disk image for tests: runs of zeroes, text-like and random blocks, and a tail that was never written.
///
/// Every written 4 KiB carries its own offset, so that a block in the wrong place is a difference, and the image
/// is made of prepared mebibytes, so that making it is quick in a debug build too.
package struct PatternedImage: Sendable {
  package let path: String
  package let byteCount: UInt64
  package let seed: UInt64

  /// Makes an image of `byteCount` bytes at `path`, the same for the same `seed`.
  ///
  /// With `dataBytes` only that much is written, in mebibytes spread over the disk: a sparse disk.
  @discardableResult
  package init(at path: String, byteCount: UInt64, seed: UInt64, dataBytes: UInt64? = nil) throws {
    (self.path, self.byteCount, self.seed) = (path, byteCount, seed)
    let descriptor = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
    guard descriptor >= 0, ftruncate(descriptor, Int(byteCount)) == 0 else {
      throw PeerError("cannot make \(path): \(String(cString: strerror(errno)))")
    }
    defer { close(descriptor) }

    var random = SeededGenerator(seed: seed)
    let blocks = Blocks(&random)
    let mebibytes = byteCount >> 20
    let written = dataBytes.map { spread($0 >> 20, over: mebibytes) } ?? Array(0..<mebibytes * 7 / 8)
    for mebibyte in written {
      // An ordinary disk has a bit of all; the little data of a sparse one compresses as that of a fresh guest.
      let kind = dataBytes == nil ? Int(random.next() % 4) : [0, 0, Blocks.mixed][Int(mebibyte % 3)]
      var block = blocks.all[kind]
      if kind != Blocks.zeroes { stamp(&block, mebibyte << 20, seed) }
      guard pwrite(descriptor, block, block.count, Int(mebibyte << 20)) == block.count else {
        throw PeerError("cannot write \(path): \(String(cString: strerror(errno)))")
      }
    }
  }
}

/// The prepared mebibytes that an image is made of.
private struct Blocks {
  static let mixed = 2
  static let zeroes = 3
  let all: [[UInt8]]

  init(_ random: inout SeededGenerator) {
    let size = 1 << 20
    let words = [
      "journal", "spill", "extent", "frame", "segment", "of", "the", "a", "is", "reads", "0x00", "\n",
    ]
    var text: [UInt8] = []
    while text.count < size { text += Array(words.randomElement(using: &random)!.utf8) + [32] }
    var noise: [UInt8] = []
    noise.reserveCapacity(size)
    while noise.count < size { withUnsafeBytes(of: random.next()) { noise += Array($0) } }
    // Half of each 64 KiB is zero, in pieces of one sector: zero detection must not go by the block.
    var mixed = noise
    for start in stride(from: 0, to: size, by: 1024) {
      mixed.replaceSubrange(start..<start + 512, with: repeatElement(0, count: 512))
    }
    all = [Array(text[..<size]), noise, mixed, [UInt8](repeating: 0, count: size)]
  }
}

private func stamp(_ block: inout [UInt8], _ offset: UInt64, _ seed: UInt64) {
  for start in stride(from: 0, to: block.count, by: 4096) {
    withUnsafeBytes(of: (offset + UInt64(start)) ^ seed) {
      block.replaceSubrange(start..<start + 8, with: $0)
    }
  }
}

private func spread(_ count: UInt64, over all: UInt64) -> [UInt64] {
  (0..<count).map { $0 * all / count }
}
