package import QEMUMonitor
package import TestKit

// A whole qemu and yet no guest: the processor is stopped before its first instruction, and the test writes to the
// virtio disks in the guest's place, by qemu's own `qemu-io` on the device. Below the device nothing can tell the
// difference: copy-before-write, the job and the exports see a guest's requests.
//
// `qemu-io` answers on qemu's stdout, which therefore goes to its stderr, unbuffered: one line for each request that was
// answered, which is what a test waits for. Only the aio verbs are used: the others run qemu's main loop inside of
// themselves, which holds up its NBD server.

/// A real virtual machine, started and stopped by a test. For one thread at a time.
package final class QEMUMachine {
  /// An image that becomes a disk of the machine.
  package struct Disk: Sendable {
    package var path: String
    package var format: Format

    /// The drivers of qemu that a disk may stand on. Only qcow2 keeps bitmaps when qemu ends.
    package enum Format: String, Sendable {
      case raw, qcow2
    }

    /// The image at `path`, which exists.
    package init(_ path: String, _ format: Format = .raw) {
      (self.path, self.format) = (path, format)
    }
  }

  /// The process, for its stderr and its end.
  package let child: ChildProcess
  /// The monitor of the test.
  package let monitor: QMPConnection
  /// The socket of the other monitor, for the program under test: qemu serves one client a socket.
  package let monitorSocket: String
  /// How many disks it has: nodes `src0`, `src1` and so on, behind the devices `disk0`, `disk1` and so on.
  package let diskCount: Int
  var requests = GuestRequests()

  /// Starts a machine with `disks` and nothing on them that runs; sockets are in `directory` and begin with `name`.
  package convenience init(_ disks: [Disk], in directory: TemporaryDirectory, name: String = "qemu") throws {
    try self.init(disks, in: directory, name: name, processor: ["-S"])
  }

  /// Starts a machine with `disks`; `processor` says, in qemu's own arguments, what it runs.
  package init(_ disks: [Disk], in directory: TemporaryDirectory, name: String, processor: [String]) throws {
    monitorSocket = directory.file("\(name)-product.sock")
    diskCount = disks.count
    let own = directory.file("\(name)-test.sock")
    let devices = disks.enumerated().flatMap { index, disk in
      [
        "-blockdev", "driver=file,node-name=file\(index),filename=\(disk.path),discard=unmap",
        "-blockdev", "driver=\(disk.format.rawValue),node-name=src\(index),file=file\(index),discard=unmap",
        "-device", "virtio-blk-pci,drive=src\(index),id=disk\(index)",
      ]
    }
    let qemu = try Program.qemuSystem.path()
    child = try ChildProcess(
      "/bin/sh",
      ["-c", "exec stdbuf -oL \"$@\" >&2", "sh", qemu]
        + ["-machine", "pc,accel=tcg", "-nodefaults", "-display", "none", "-no-user-config"]
        + ["-qmp", "unix:\(own),server=on,wait=off", "-qmp", "unix:\(monitorSocket),server=on,wait=off"]
        + devices + processor)
    monitor = try QMPConnection(connectingTo: own, of: child)
  }

  deinit { child.kill() }

  /// The name of the node under the device of disk `index`, for `--disk` and for jobs.
  package func node(_ index: Int = 0) -> String { "src\(index)" }

  /// The QOM path of the device of disk `index`.
  package func device(_ index: Int = 0) -> String { "/machine/peripheral/disk\(index)/virtio-backend" }

  /// Ends it at once, as a crash of the host's process would.
  package func kill() { child.kill() }
}

extension QMPConnection {
  /// Connects to the monitor of a qemu that is just starting: it makes its socket when it is ready, and tells nobody.
  ///
  /// So we knock, pacing ourselves by its end, which would be the other way that this can go.
  convenience init(connectingTo socket: String, of child: ChildProcess) throws {
    let deadline = ContinuousClock.now + .seconds(30)
    while true {
      do {
        try self.init(connectingTo: socket)
        return
      } catch let error {
        guard case .cannotConnect = error, ContinuousClock.now < deadline else { throw error }
      }
      guard !child.hasEnded(within: .milliseconds(10)) else {
        throw PeerError("\(child.command) ended at once:\n\(child.errorLines.joined(separator: "\n"))")
      }
    }
  }
}
