import Foundation
import Peers
import QEMUMonitor
import TestKit
import Testing

/// A running `spillway inspect` of a guest, whose command copies the view once it may go on, has libguestfs read it, and
/// ends with a status of its own.
final class Inspection {
  /// The process, and the gate before its command.
  let gated: GatedInspection
  private let seen: SeenDisk
  /// The last round that was done before the inspection began.
  private let written: Int
  /// The disk at the moment, byte for byte, if the guest was held for it.
  private let momentImage: String?

  private static let status: Int32 = 7

  /// Starts it and returns when its command runs: the moment is over. With `isHeld` the guest stands still from before it
  /// begins until then.
  init(of guest: LinuxGuest, isHeld: Bool = false, in directory: TemporaryDirectory) throws {
    seen = SeenDisk(copy: directory.file("seen.raw"), archive: directory.file("seen.tar"))
    written = guest.lastRound
    momentImage = isHeld ? directory.file("moment.raw") : nil
    if let momentImage {
      try guest.machine.monitor.execute("stop")
      try FileManager.default.copyItem(atPath: guest.image, toPath: momentImage)
    }
    gated = try GatedInspection(
      [
        "--qmp", guest.machine.monitorSocket, "--disk", "root=\(guest.machine.node())",
        "-j", directory.file("journal"),
      ],
      then: """
        set -e
        nbdcopy "$view_uri" '\(seen.copy)'
        guestfish --ro "$@" -m /dev/sda tar-out / '\(seen.archive)'
        exit \(Self.status)
        """,
      in: directory, environment: Libguestfs.environment)
    if isHeld { try guest.machine.monitor.execute("cont") }
  }

  /// Waits for its end and expects that all was as it should be: its status is the command's, the view was that of the
  /// moment, AFTER, which is on the disk now, was not in it, and the guest noticed nothing.
  func expectEnd(of guest: LinuxGuest, before next: Int, in directory: TemporaryDirectory) throws {
    let end = try gated.child.finish(within: .seconds(400))
    #expect(end.status == .exited(Self.status), "\(end.errorLines.suffix(20).joined(separator: "\n"))")
    if let momentImage {
      let difference = try FileComparison.firstDifference(momentImage, seen.copy)
      #expect(difference == nil, "\(difference ?? "")")
    }
    #expect(try !seen.has("AFTER"))
    try seen.expectMoment(after: written, before: next, in: directory)
    try guest.waitForMoreRounds(20)
    #expect(guest.complaints == [])
    #expect(try guest.machine.monitor.execute("query-jobs") == [])
    #expect(try guest.machine.monitor.execute("query-block-exports") == [])
    guest.machine.kill()
    try guest.expectOnDisk("AFTER", madeInRound: next)
  }
}
