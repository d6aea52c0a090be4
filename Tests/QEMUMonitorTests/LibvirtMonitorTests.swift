import Foundation
import Glibc
import Peers
import QEMUMonitor
import TestKit
import Testing

// Goal: a domain of libvirt is spoken to as a qemu of one's own is.
// Method: a script plays virsh before a real qemu; what real libvirt prints was compared by hand.

@Suite("a monitor behind libvirt")
struct LibvirtMonitorTests {
  let directory: TemporaryDirectory
  let virsh: PlayedVirsh

  init() throws {
    directory = try TemporaryDirectory()
    virsh = try PlayedVirsh(byteCount: 1 << 20, in: directory)
  }

  @Test("runs the verbs, with jobs and their events")
  func verbs() throws {
    let monitor = try virsh.monitor()
    let schema = try monitor.schema()
    let target = try NBDKitMemory(byteCount: 1 << 20, in: directory)
    try monitor.addNBDTarget("tgt", atUnixSocket: target.socket, export: "", reconnectSeconds: 5, schema)
    try monitor.run(QEMUTransaction([.backup(QEMUBackup(id: "a.b-c", node: "src", target: "tgt", .full))]))
    try monitor.waitForJob("a.b-c", within: .seconds(60))
    try monitor.dismissJob("a.b-c")
    // The end of the job is told by an event too, and only once.
    let isEnd = { (event: QMPEvent) in event.name == "JOB_STATUS_CHANGE" && event.data["status"] == "null" }
    #expect(try monitor.nextEvent(within: .seconds(30), where: isEnd)?.data["id"] == "a.b-c")
    #expect(try monitor.nextEvent(within: .zero, where: isEnd) == nil)
    try monitor.removeNode("tgt")
    let copy = directory.file("copy.raw")
    try Program.nbdcopy.run([target.uri, copy])
    #expect(try FileComparison.firstDifference(virsh.image, copy) == nil)
  }

  @Test("tells qemu's refusals and libvirt's failures in their own words")
  func failures() throws {
    let monitor = try virsh.monitor()
    #expect(
      throws: QMPError.refused(
        command: "make-coffee", class: "CommandNotFound",
        description: "The command make-coffee has not been found")
    ) { try monitor.execute("make-coffee") }
    let absent = QMPError.programFailed(
      program: virsh.program, description: "failed to get domain 'nobody'")
    #expect(throws: absent) { _ = try virsh.monitor(of: "nobody") }
  }

  @Test("says what to install when virsh is missing")
  func missing() throws {
    let program = directory.file("nowhere")
    #expect(throws: QMPError.cannotRun(program: program, errno: ENOENT)) {
      _ = try LibvirtMonitor(domain: "demo", virsh: program)
    }
    #expect(
      QMPError.cannotRun(program: "virsh", errno: ENOENT).description.hasPrefix("virsh is not installed"))
  }

  @Test("says when nobody listens to events any more, and listens anew when told")
  func reconnect() throws {
    let monitor = try virsh.monitor()
    virsh.child.kill()
    #expect(throws: QMPError.programFailed(program: virsh.program, description: "connection closed")) {
      _ = try monitor.nextEvent(within: .seconds(30)) { _ in true }
    }
    #expect(throws: QMPError.self) { try monitor.reconnect() }
  }

  @Test(
    "understands each form of an event",
    arguments: [
      (#"event STOP at 1.000002 for domain 'demo': <null>"#, QMPEvent(name: "STOP")),
      (#"event A at 1447.331221 for domain old: {"n":1}"#, QMPEvent(name: "A", data: ["n": 1])),
      (
        #"event B_C at 1.2 for domain 'a{ for domain b': {"text":" for domain x: {"}"#,
        QMPEvent(name: "B_C", data: ["text": " for domain x: {"])
      ),
    ])
  func events(line: String, event: QMPEvent) throws {
    #expect(try LibvirtMonitor.event(line) == event)
    #expect(try LibvirtMonitor.event("events received: 1") == nil)
  }

  @Test("reaches the guest's agent")
  func agent() throws {
    let agent = LibvirtGuestAgent(domain: "demo", connection: "qemu:///played", virsh: virsh.program)
    #expect(try agent.freeze() == 2)
    #expect(try agent.thaw() == 2)
    #expect(try !agent.isFrozen())
    #expect(
      throws: QMPError.programFailed(
        program: virsh.program,
        description: "internal error: unable to execute QEMU agent command 'guest-ping'")
    ) { try agent.execute("guest-ping", arguments: nil, within: .seconds(30)) }
  }
}
