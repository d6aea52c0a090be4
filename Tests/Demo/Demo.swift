import TestKit
import Foundation
import Glibc
import Peers
import QEMUMonitor

// The main job of Spillway, with real peers and in order: serve, push, read meanwhile, replay, compare.

/// `spillway-demo`: exit 0 and a report when all of it worked, else exit 1 and one line that says why not.
@main
struct Demo {
  static func main() {
    let directory: TemporaryDirectory
    do { directory = try TemporaryDirectory() } catch {
      complain("\(error)")
      exit(1)
    }
    Watchdog.start(cleaning: directory)
    var outcome: Result<Report, any Error>
    do { outcome = .success(try Demo(directory: directory).run()) } catch { outcome = .failure(error) }
    Watchdog.giveWay()
    // exit runs no deinit, so the directory goes by hand; the children went with `run`.
    directory.remove()
    Progress.clear()
    switch outcome {
    case .success(let report): print(report.text)
    case .failure(let error):
      complain("\(error)")
      exit(1)
    }
  }

  private static let disk = "vda"
  private static let diskBytes: UInt64 = 512 << 20

  let directory: TemporaryDirectory

  private func run() throws -> Report {
    let clock = ContinuousClock()
    let start = clock.now
    var report = Report(diskBytes: Self.diskBytes)

    Progress.show("making an ext4 image out of files of this machine")
    let image = try FilesystemImage(
      at: directory.file("source.raw"), byteCount: Self.diskBytes, scratch: directory)
    report.usedBytes = DiskUsage.bytes(of: image.path)

    let daemon = try SpillwayDaemon(
      journal: directory.file("journal"), disks: ["\(Self.disk)=\(Self.diskBytes),mode=snapshot"],
      in: directory)
    let liveCopy = directory.file("live.raw")
    let reader = try startReader(daemon, liveCopy)
    report.pushSeconds = try seconds { try push(image, daemon) }

    Progress.show("waiting for the reader")
    try reader.finish(within: .seconds(120)).succeeded()

    Progress.show("replaying the journal")
    let replayed = directory.file("replayed.raw")
    report.replaySeconds = try seconds { try Spillway.replay(daemon.journal, Self.disk, to: replayed) }

    let status = try daemon.status()
    report.readsThatWaited = status.waitedReads
    report.longestWaitNanoseconds = status.longestWaitNanoseconds
    guard status.isComplete(Self.disk) else {
      throw PeerError("qemu has closed its target, yet the stream is not complete")
    }
    guard status.waitedReads > 0 else { throw PeerError("no read waited for a block to arrive") }
    try daemon.shutDown()
    report.storedBytes = DiskUsage.bytes(of: daemon.journal)

    Progress.show("comparing both copies with the source")
    for copy in [liveCopy, replayed] {
      if let difference = try FileComparison.firstDifference(image.path, copy) {
        throw PeerError(difference)
      }
    }
    report.allSeconds = seconds(start.duration(to: clock.now))
    return report
  }

  /// Starts to read the whole disk from its view and returns once the first read waits, which is before qemu
  /// has sent anything.
  private func startReader(_ daemon: SpillwayDaemon, _ copy: String) throws -> ChildProcess {
    let reader = try Program.nbdcopy.start([daemon.viewURI("\(Self.disk)@live"), copy])
    try daemon.waitForStatus("waited a read of the view") { status in
      status.parkedReads > 0 || reader.hasEnded(within: .zero)
    }
    if reader.hasEnded(within: .zero) {
      try reader.finish().succeeded()
      throw PeerError("the reader had read the whole disk before anything was pushed")
    }
    return reader
  }

  /// Lets a qemu push the image.
  private func push(_ image: FilesystemImage, _ daemon: SpillwayDaemon) throws {
    let qemu = try QEMUStorageDaemon(image: image.path, in: directory)
    try qemu.startBackup(toUnixSocket: daemon.ingestSocket, export: Self.disk)
    // While it runs qemu finds more to do and its fraction falls; a line that goes back only worries.
    var percent = 0
    try qemu.finishBackup { job in
      percent = max(percent, Int(job.progress * 100))
      Progress.show("qemu pushes, nbdcopy reads: \(percent) % of \(Self.diskBytes >> 20) MiB")
    }
  }

  private func seconds(_ work: () throws -> Void) rethrows -> Double {
    seconds(try ContinuousClock().measure(work))
  }

  private func seconds(_ duration: Duration) -> Double {
    Double(duration.components.seconds) + Double(duration.components.attoseconds) / 1e18
  }
}
