import Foundation
import Peers
import TestKit
import Testing

/// The guest's disk as somebody saw it: a raw copy, and the files that libguestfs found in it.
struct SeenDisk {
  let copy: String
  /// A tar archive of everything from the top of the filesystem.
  let archive: String

  /// Expects the disk of one moment: after the end of `written` rounds and before the beginning of round `next`.
  func expectMoment(
    after written: Int, before next: Int, in directory: TemporaryDirectory,
    _ location: SourceLocation = #_sourceLocation
  ) throws {
    let tree = directory.file("seen-\(next)")
    try FileManager.default.createDirectory(atPath: tree, withIntermediateDirectories: true)
    try Program.tar.run(["-x", "-f", archive, "-C", tree, "--no-same-owner"])

    let rounds = try FileManager.default.contentsOfDirectory(atPath: "\(tree)/written").compactMap { Int($0) }
    let later = rounds.filter { $0 >= next }
    #expect(later == [], "files of rounds that had not begun", sourceLocation: location)
    // In round `next` - 1 at the latest the moment was; what was removed until then may be gone.
    let oldest = max(1, next - LinuxGuest.keptRounds)
    try #require(oldest < written, "the guest was too quick to tell", sourceLocation: location)
    let lasting = Set(oldest...written)
    #expect(
      lasting.subtracting(rounds) == [], "files that were on the disk are missing", sourceLocation: location)
    let wrong = try rounds.filter { try bytes("\(tree)/written/\($0)") != LinuxGuest.content(ofRound: $0) }
    #expect(wrong == [], "files with other bytes in them", sourceLocation: location)

    // Written in place, so its old bytes were overwritten on the disk in every round since.
    let overwritten = try String(decoding: bytes("\(tree)/round"), as: UTF8.self)
    let round = overwritten.split(separator: "\n").first.flatMap { Int($0.dropFirst("round ".count)) } ?? -1
    #expect((written..<next).contains(round), "round is \(overwritten.prefix(20))", sourceLocation: location)
    try FileManager.default.removeItem(atPath: tree)

    // What the kernel does when it mounts a disk after a crash, e2fsck does here: the journal, and files that were
    // being removed. It refuses (4) to go on with anything else, and what it leaves must be clean.
    let recovery = try Program.e2fsck.start(["-f", "-p", copy]).finish()
    #expect([.exited(0), .exited(1)].contains(recovery.status), "\(recovery)", sourceLocation: location)
    let check = try Program.e2fsck.start(["-f", "-n", copy]).finish()
    #expect(check.status == .exited(0), "\(check.outputText)", sourceLocation: location)
  }

  /// Whether the file `name` is at the top of its filesystem.
  func has(_ name: String) throws -> Bool {
    try Program.tar.run(["-t", "-f", archive]).outputText
      .split(separator: "\n").contains { $0 == "./\(name)" || $0 == name }
  }

  private func bytes(_ path: String) throws -> [UInt8] {
    Array(try Data(contentsOf: URL(fileURLWithPath: path)))
  }
}
