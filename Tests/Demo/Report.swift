import Foundation

/// What the demo has measured, and how it is told.
struct Report {
  var diskBytes: UInt64 = 0
  var usedBytes: UInt64 = 0
  var storedBytes: UInt64 = 0
  var readsThatWaited: UInt64 = 0
  var longestWaitNanoseconds: UInt64 = 0
  var pushSeconds = 0.0
  var replaySeconds = 0.0
  var allSeconds = 0.0

  var text: String {
    """
    The copy read while qemu was pushing and the replayed copy are both identical to the source, byte for byte.

      disk               \(mebibytes(diskBytes))
      used               \(mebibytes(usedBytes))   (blocks that the source image takes: du)
      stored             \(mebibytes(storedBytes))   (everything in the journal directory after shutdown: du)
      stored / used      \(fixed(ratio(storedBytes, usedBytes), 3))
      stored / disk      \(fixed(ratio(storedBytes, diskBytes), 3))   (a raw NBD target takes all of the disk:
                                     qemu sends zeroes as WRITE_ZEROES that forbid holes)
      reads that waited  \(pad("\(readsThatWaited)"))
      longest wait       \(fixed(Double(longestWaitNanoseconds) / 1e9, 3)) s
      push               \(fixed(pushSeconds, 1)) s   (from the start of the job until qemu had closed the target)
      replay             \(fixed(replaySeconds, 1)) s
      everything         \(fixed(allSeconds, 1)) s   (with making the image and comparing)
    """
  }

  private func ratio(_ part: UInt64, _ whole: UInt64) -> Double { Double(part) / Double(max(whole, 1)) }

  private func mebibytes(_ bytes: UInt64) -> String {
    fixed(Double(bytes) / 1_048_576, 1) + " MiB"
  }

  private func fixed(_ value: Double, _ digits: Int) -> String {
    pad(String(format: "%.\(digits)f", value))
  }

  /// Figures stand flush right, so that their magnitudes can be compared at a glance.
  private func pad(_ text: String) -> String { String(repeating: " ", count: max(0, 9 - text.count)) + text }
}
