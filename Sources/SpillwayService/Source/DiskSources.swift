internal import ExtentJournal
internal import NBDSource
internal import Threads

/// The sources of a daemon's disks: connected, attached, watched, and let go again.
///
/// Stop in this order: the journal's waiting reads, `interrupt`, the NBD server, `stop`.
final class DiskSources {
  private let log: JournalLog
  private let watch: JobWatch?
  private var sources: [NBDSource] = []

  /// Connects to the sources and attaches them to those of `disks` that they name. `monitor` is where their jobs are
  /// asked about.
  init(
    _ specifications: [SourceSpecification], monitor: String?, disks: [Disk], log: @escaping JournalLog
  ) throws(ServiceError) {
    self.log = log
    watch = monitor.map { JobWatch(monitor: $0, log: log) }
    for specification in specifications {
      guard let disk = disks.first(where: { $0.name == specification.disk }) else {
        let names = disks.map(\.name).joined(separator: ", ")
        throw .usage("--source \(specification.disk): the journal has no such disk; it has \(names)")
      }
      try attach(specification, to: disk)
    }
    try watch?.start()
  }

  private func attach(_ specification: SourceSpecification, to disk: Disk) throws(ServiceError) {
    guard let id = specification.job else {
      let source = try connect(specification)
      return try reportingJournalErrors { () throws(JournalError) in try disk.attach(StaticSource(source)) }
    }
    guard let watch else { throw .usage("--source \(disk.name): job=\(id) takes --qmp to ask about it") }
    let job = WatchedJob(id, of: disk)
    watch.add(job)
    let source: any LiveSource
    if case .dead(let reason) = job.liveness.state {
      log(.warning, "the source of \(disk.name) is not read: \(reason)")
      source = LostSource(byteCount: disk.byteCount, reason: reason)
    } else {
      do throws(ServiceError) {
        source = JobSource(try connect(specification), job, watch)
      } catch {
        // The guest may have ended since. What has arrived is to be had all the same.
        guard disk.seenJob == id else { throw error }
        log(.warning, error.message)
        source = LostSource(byteCount: disk.byteCount, reason: error.message)
      }
    }
    try reportingJournalErrors { () throws(JournalError) in try disk.attach(source) }
  }

  private func connect(_ specification: SourceSpecification) throws(ServiceError) -> NBDSource {
    do throws(SourceError) {
      let source = try NBDSource(uri: specification.uri)
      sources.append(source)
      return source
    } catch {
      throw .failed(error.message)
    }
  }

  /// Ends every read that is under way, and all later ones.
  func interrupt() {
    watch?.stopAnswering()
    for source in sources { source.close() }
  }

  /// Gives the jobs their speed back and lets go of the monitor. The journal must be open.
  func stop() {
    interrupt()
    watch?.stop()
  }
}
