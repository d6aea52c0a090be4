import Foundation
import Glibc
import Peers
import QEMUMonitor
import TestKit
import Testing

/// A running `spillway inspect` of a guest. Its command waits until it is told to go on, then copies the view, has
/// libguestfs read it, and ends with a status of its own.
final class Inspection {
  private let child: ChildProcess
  private let gate: String
  private let seen: SeenDisk
  /// The last round that was done before the inspection began.
  private let written: Int

  private static let status: Int32 = 7

  /// The disk at the moment, byte for byte, if the guest was held for it.
  private let momentImage: String?

  /// Starts it and returns when its command runs: the moment is over. With `isHeld` the guest stands still from before it
  /// begins until then.
  init(of guest: LinuxGuest, isHeld: Bool = false, in directory: TemporaryDirectory) throws {
    gate = directory.file("gate")
    seen = SeenDisk(copy: directory.file("seen.raw"), archive: directory.file("seen.tar"))
    guard mkfifo(gate, 0o600) == 0 else { throw PeerError("cannot make the pipe \(gate)") }
    let command = directory.file("command")
    try Data(
      """
      set -e
      echo 'command: runs' >&2
      read -r go < '\(gate)'
      nbdcopy "$view_uri" '\(seen.copy)'
      guestfish --ro "$@" -m /dev/sda tar-out / '\(seen.archive)'
      exit \(Self.status)

      """.utf8
    ).write(to: URL(fileURLWithPath: command))
    written = guest.lastRound
    momentImage = isHeld ? directory.file("moment.raw") : nil
    if let momentImage {
      try guest.machine.monitor.execute("stop")
      try FileManager.default.copyItem(atPath: guest.image, toPath: momentImage)
    }
    child = try Spillway.start(
      ["inspect", "--qmp", guest.machine.monitorSocket, "--disk", "root=\(guest.machine.node())"]
        + ["-j", directory.file("journal"), "--", "/bin/sh", command, "{}"],
      environment: Libguestfs.environment)
    try child.waitForErrorLine(containing: "command: runs", within: .seconds(120))
    if isHeld { try guest.machine.monitor.execute("cont") }
  }

  deinit { child.kill() }

  /// Lets the command go on.
  func goOn() throws {
    guard let gate = FileHandle(forWritingAtPath: gate) else { throw PeerError("cannot open \(gate)") }
    try gate.write(contentsOf: Data("go\n".utf8))
  }

  /// Kills the process that serves the journal, and returns its id.
  func killEngine() throws -> Int32 {
    let engine = try waitForEngine(otherThan: 0)
    kill(engine, SIGKILL)
    return engine
  }

  /// Waits until there is an engine other than `old`, and returns its id.
  func waitForEngine(otherThan old: Int32) throws -> Int32 {
    let deadline = ContinuousClock.now + .seconds(60)
    while ContinuousClock.now < deadline {
      if let engine = try engines().first(where: { $0 != old }) { return engine }
      guard !child.hasEnded(within: .milliseconds(10)) else { break }
    }
    throw PeerError("\(child.command): no engine\n\(child.errorLines.suffix(20).joined(separator: "\n"))")
  }

  /// Waits for its end and expects that all was as it should be: its status is the command's, the view was that of the
  /// moment, AFTER, which is on the disk now, was not in it, and the guest noticed nothing.
  func expectEnd(of guest: LinuxGuest, before next: Int, in directory: TemporaryDirectory) throws {
    let end = try child.finish(within: .seconds(400))
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

  /// Its children that serve the journal and live.
  private func engines() throws -> [Int32] {
    try FileManager.default.contentsOfDirectory(atPath: "/proc").compactMap { Int32($0) }.filter { id in
      // A process that ends meanwhile is none.
      guard let words = FileManager.default.contents(atPath: "/proc/\(id)/cmdline"),
        let about = FileManager.default.contents(atPath: "/proc/\(id)/stat")
      else { return false }
      let arguments = String(decoding: words, as: UTF8.self).split(separator: "\0")
      // After the name, which is in parentheses: the state, then the parent.
      let fields =
        String(decoding: about, as: UTF8.self).split(separator: ")").last?.split(separator: " ") ?? []
      return arguments.dropFirst().first == "engine" && fields.count > 1
        && Int32(fields[1]) == child.processID
    }
  }
}
