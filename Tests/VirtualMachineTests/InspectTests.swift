import Foundation
import Glibc
import Peers
import TestKit
import Testing

extension VirtualMachine {
  /// `spillway inspect` of a guest that goes on writing, with libguestfs as the command that it runs.
  @Suite("an inspection of a running guest")
  struct InspectTests {
    let directory: TemporaryDirectory

    init() throws { directory = try TemporaryDirectory() }

    @Test("shows libguestfs the disk of the moment at which it began, and the guest goes on")
    func moment() throws {
      let guest = try LinuxGuest(in: directory)
      try guest.waitForRound(40)
      let inspection = try Inspection(of: guest, in: directory)
      let next = try guest.make("AFTER")
      try guest.waitForMoreRounds(20)
      try inspection.gated.goOn()
      try guest.waitForMoreRounds(20)
      try inspection.expectEnd(of: guest, before: next, in: directory)
    }

    // What the killed engine had acknowledged is nowhere but in its ring: the guest has overwritten it since. Held for an
    // instant, the disk is what the view must be, byte for byte.
    @Test("goes on when its engine is killed, with the same view, and the guest goes on too")
    func killedEngine() throws {
      let guest = try LinuxGuest(in: directory)
      try guest.waitForRound(40)
      let inspection = try Inspection(of: guest, isHeld: true, in: directory)
      let next = try guest.make("AFTER")
      try guest.waitForMoreRounds(20)
      let killed = try inspection.gated.killEngine()
      try guest.waitForMoreRounds(20)
      #expect(try inspection.gated.waitForEngine(otherThan: killed) != killed)
      try guest.waitForMoreRounds(20)
      try inspection.gated.goOn()
      try inspection.expectEnd(of: guest, before: next, in: directory)
    }

    @Test("virt-df, run by it, tells what the guest's filesystem held")
    func virtDF() throws {
      let guest = try LinuxGuest(in: directory)
      try guest.waitForRound(40)
      let answer = try Spillway.start(
        ["inspect", "--qmp", guest.machine.monitorSocket, "--disk", "root=\(guest.machine.node())"]
          + ["-j", directory.file("journal"), "--", Program.virtDF.path(), "--csv", "{}"],
        environment: Libguestfs.environment
      ).finish(within: .seconds(400)).succeeded()
      // One filesystem without partitions; 1 KiB blocks: all of them, used, available.
      let row = answer.outputText.split(separator: "\n").first { $0.contains("/dev/sda") }
      let columns = row?.split(separator: ",").map(String.init) ?? []
      let numbers = columns.compactMap { Int($0) }
      try #require(numbers.count >= 3, "\(answer.outputText)")
      #expect((80 << 10...96 << 10).contains(numbers[0]))
      #expect(numbers[1] > 40 * 4 && numbers[1] < numbers[0])
      try guest.waitForMoreRounds(20)
      #expect(guest.complaints == [])
    }
  }
}
