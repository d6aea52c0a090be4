internal import Bytes
internal import ExtentJournal
internal import Logging
internal import NBDSource
internal import Threads

/// The live disks of a session, as the engine reads them.
///
/// An incremental generation first learns from the frozen bitmap what lies outside it: only then the live disk may be read
/// for it, for outside the bitmap the guest overwrites without telling us.
final class SessionSources: @unchecked Sendable {
  // Sendable: `sources` and `isOver` are guarded by `lock`.
  private let plan: SessionPlan
  private let disks: [Disk]
  private let log: Logger
  private let lock = Lock()
  private var sources: DiskSources?
  private var isOver = false
  /// What fell to the bases, by disk, of the bitmaps that this process has read.
  private var clean: [String: [ByteRange]] = [:]

  init(_ plan: SessionPlan, _ disks: [Disk], _ log: Logger) {
    self.plan = plan
    self.disks = disks
    self.log = log
  }

  /// Connects to the live disks and lets views read them. Does nothing the second time.
  func begin() throws(ServiceError) {
    try lock.withLock { () throws(ServiceError) in
      guard sources == nil, !isOver else { return }
      for (disk, planned) in zip(disks, plan.disks) where planned.kind == GenerationKind.incremental.word {
        try readBitmap(of: disk, planned)
      }
      let specifications = plan.disks.map {
        SourceSpecification(disk: $0.name, uri: plan.sourceURI(of: $0), job: $0.job)
      }
      sources = try DiskSources(
        specifications, monitor: plan.monitorSocket, disks: disks, log: sourceLog)
    }
  }

  /// That the job of a backup has ended is the parent's to tell, which knows what that means.
  private var sourceLog: JournalLog {
    let all = log.forJournal
    guard plan.purpose == .backup else { return all }
    return { level, message in all(level == .warning ? .info : level, message) }
  }

  /// Records what lies outside the bitmap, unless that was done before a crash.
  private func readBitmap(of disk: Disk, _ planned: SessionDisk) throws(ServiceError) {
    guard !disk.bitmapIsWhole, !disk.isClosed else { return }
    let dirty: [ByteRange]
    do throws(SourceError) {
      let source = try NBDSource(uri: plan.sourceURI(of: planned), connectionsMax: 1)
      defer { source.close() }
      dirty = try source.dirtyRanges(bitmap: planned.frozenBitmap)
    } catch {
      throw .failed("the bitmap of \(disk.name) cannot be read: \(error.message)")
    }
    var clean: [ByteRange] = []
    var position: UInt64 = 0
    for range in dirty where range.end > position {
      if range.start > position { clean.append(ByteRange(start: position, end: range.start)) }
      position = range.end
    }
    if position < disk.byteCount { clean.append(ByteRange(start: position, end: disk.byteCount)) }
    try reportingJournalErrors { () throws(JournalError) in
      try disk.fallToBase(clean)
      try disk.finishBitmap()
    }
    self.clean[disk.name] = clean
  }

  /// How many clusters that should not have changed since the base differ from it, of those that were looked at: by disk, of
  /// those whose bitmap this process has read.
  func differing() throws(ServiceError) -> [String: Int] {
    var result: [String: Int] = [:]
    for (disk, planned) in zip(disks, plan.disks) {
      guard let clean = lock.withLock({ self.clean[disk.name] }) else { continue }
      let source: NBDSource
      do throws(SourceError) {
        source = try NBDSource(uri: plan.sourceURI(of: planned), connectionsMax: 1)
      } catch {
        throw .failed("the live disk of \(disk.name) cannot be compared with its base: \(error.message)")
      }
      defer { source.close() }
      result[disk.name] = try BaseComparison(disk, clean: clean).differing(from: source)
    }
    return result
  }

  /// Lets go of the live disks: reads of what has not arrived fail with `reason`.
  func end(_ reason: String) {
    let sources = lock.withLock { () -> DiskSources? in
      isOver = true
      return self.sources
    }
    for disk in disks { disk.endSource(reason) }
    sources?.interrupt()
  }

  /// Lets go of the monitor. After `end`, while the journal is open.
  func stop() { lock.withLock { sources }?.stop() }
}
