internal import ExtentJournal
internal import NBDProtocol
internal import NBDServer
internal import Bytes
internal import Threads

// Where the journal and the wire meet, and the only place where they do: disks become exports, journal errors become
// NBD errors.

/// The exports of a journal: `NAME` takes the stream of disk NAME, `NAME@live` shows its newest generation while it
/// arrives (of a device disk always the open one), `NAME@GENERATION` shows the one of that name, whatever its state, and
/// `NAME@=SEQUENCE` the disk as it was at the end of a batch.
///
/// A socket for readers shows views only; the empty name is the one disk's export there is.
struct JournalExports: ExportDirectory {
  private let journal: Journal
  private let showsIngest: Bool
  private let streams: Streams
  private let rules: ViewRules
  private let tlsOnly: Set<String>

  /// The exports of `journal` for a listening socket that shows everything (`showsIngest`) or only views. All
  /// directories of a journal share `streams`. All exports of the disks `tlsOnly` are only for clients behind TLS.
  init(journal: Journal, showsIngest: Bool, streams: Streams, rules: ViewRules, tlsOnly: Set<String>) {
    self.journal = journal
    self.showsIngest = showsIngest
    self.streams = streams
    self.rules = rules
    self.tlsOnly = tlsOnly
  }

  /// What an export name means.
  private enum Target {
    case ingest(Disk)
    /// A view, and what it is called behind the `@`.
    case view(Disk, String)
    case past(Disk, PastName)

    var disk: Disk {
      switch self {
      case .ingest(let disk), .view(let disk, _), .past(let disk, _): disk
      }
    }
  }

  private func resolve(_ name: String) -> Target? {
    let disks = journal.disks
    if name.isEmpty {
      guard disks.count == 1 else { return nil }
      return showsIngest ? .ingest(disks[0]) : .view(disks[0], Journal.liveName)
    }
    if let past = PastName(export: name) {
      return disks.first { $0.name == past.disk }.map { .past($0, past) }
    }
    if let at = name.lastIndex(of: "@") {
      let (disk, generation) = (String(name[..<at]), String(name[name.index(after: at)...]))
      // Hidden generations have no name.
      let found = disks.first { $0.name == disk }
      if generation == Journal.liveName { return found.map { .view($0, generation) } }
      return journal.generations.first { $0.name == disk && $0.generationName == generation }
        .map { .view($0, generation) }
    }
    return showsIngest ? disks.first { $0.name == name }.map { .ingest($0) } : nil
  }

  private func describe(_ target: Target) -> ExportDescription {
    var export =
      switch target {
      case .ingest(let disk):
        ExportDescription(
          name: disk.name, text: "takes the stream of disk \(disk.name) (\(disk.mode.rawValue))",
          byteCount: disk.byteCount, isReadOnly: false, minimumBlock: disk.mode == .snapshot ? 512 : 1)
      case .past(let disk, let name): PastExport.describe(name, of: disk)
      case .view(let disk, let generation):
        ExportDescription(
          name: "\(disk.name)@\(generation)", text: Self.text(disk, generation), byteCount: disk.byteCount,
          isReadOnly: !rules.allowRelease, minimumBlock: 1, takesOnlyTrims: rules.allowRelease,
          contexts: ViewContext.names(for: disk, in: journal))
      }
    export.requiresTLS = tlsOnly.contains(target.disk.name)
    return export
  }

  private static func text(_ disk: Disk, _ generation: String) -> String {
    guard generation != Journal.liveName else {
      return "disk \(disk.name) as it arrives; reads wait for what has not"
    }
    if disk.isSealed { return "generation \(generation) of disk \(disk.name), sealed" }
    return
      "generation \(generation) of disk \(disk.name)\(disk.endReason.map { ", ended: \($0)" } ?? ", open")"
  }

  func find(_ name: String) -> ExportDescription? { resolve(name).map(describe) }

  func list() -> [ExportDescription] {
    let generations = journal.generations
    return journal.disks.flatMap { disk in
      (showsIngest ? [describe(.ingest(disk))] : []) + [describe(.view(disk, Journal.liveName))]
        + generations.filter { $0.name == disk.name }.compactMap { generation in
          generation.generationName.map { describe(.view(generation, $0)) }
        }
    }
  }

  func open(_ name: String) throws(ExportError) -> any ExportSession {
    switch resolve(name) {
    // On a snapshot disk the connection stays with the generation that is open now, also when another takes its place; on a
    // device disk it writes to the one that is open then.
    case .ingest(let disk): IngestSession(disk, streams)
    case .view(let disk, _): ViewSession(disk, journal, rules, streams.log)
    case .past(_, let past): try PastExport.open(past, in: journal)
    case nil: throw ExportError(.invalid, "no export \(name)")
    }
  }
}

/// What readers of views may do, and what their reads do.
struct ViewRules: Sendable {
  /// Whether a TRIM of a view releases.
  var allowRelease = false
  /// Whether what a read of a view was answered with is released.
  var isReadOnce = false
}

/// Which connections have written to which generation, or to which device disk, whose connections outlive generations:
/// when the last of them says good-bye, the stream is complete.
final class Streams: @unchecked Sendable {
  // Sendable: guarded by `lock`.
  private let lock = Lock()
  private var writers: [Stream: Int] = [:]

  private struct Stream: Hashable {
    var disk: String
    var generation: UInt32

    init(_ disk: Disk) {
      self.disk = disk.name
      generation = disk.mode == .device ? 0 : disk.generationNumber
    }
  }

  fileprivate let log: JournalLog

  init(log: @escaping JournalLog) { self.log = log }

  fileprivate func begin(_ disk: Disk) {
    lock.withLock { writers[Stream(disk), default: 0] += 1 }
  }

  /// A connection that wrote has ended. A clean end of the last one completes the stream; an unclean one completes
  /// nothing, the client may come back.
  fileprivate func end(_ disk: Disk, cleanly: Bool) {
    let isLast = lock.withLock {
      let stream = Stream(disk)
      let left = (writers[stream] ?? 1) - 1
      writers[stream] = left == 0 ? nil : left
      return left == 0
    }
    guard isLast, cleanly else { return }
    do throws(JournalError) {
      try disk.complete()
    } catch {
      log(.error, "the end of the stream of \(disk.name) could not be recorded: \(error.message)")
    }
  }
}

/// A connection that feeds a disk.
private final class IngestSession: ExportSession, @unchecked Sendable {
  // Sendable: `hasWritten` is guarded by `lock`.
  private let disk: Disk
  private let streams: Streams
  private let owner: UInt64
  private let lock = Lock()
  private var hasWritten = false

  init(_ disk: Disk, _ streams: Streams) {
    self.disk = disk
    self.streams = streams
    owner = disk.newOwner()
  }

  private func noteWrite() {
    let isFirst = lock.withLock {
      defer { hasWritten = true }
      return !hasWritten
    }
    if isFirst { streams.begin(disk) }
  }

  func read(
    _ range: ByteRange, into target: inout MutableRawSpan, since: UInt64, isRetry: Bool,
    mayBlock: Bool, waiter: () -> ReadWaiter
  ) throws(ExportError) -> ReadOutcome {
    do throws(JournalError) {
      return .served(try disk.readIngest(range, into: &target, owner: owner).map { ReadPiece($0) })
    } catch {
      throw ExportError(error)
    }
  }

  func reserve(_ range: ByteRange) throws(ExportError) -> any WriteReservation {
    noteWrite()
    do throws(JournalError) { return Reservation(try disk.reserve(range)) } catch { throw ExportError(error) }
  }

  func writeZeroes(_ range: ByteRange, mayTrim: Bool) throws(ExportError) -> AfterReply? {
    noteWrite()
    do throws(JournalError) {
      return try disk.writeZeroes(range, mayTrim: mayTrim, durable: false).afterReply
    } catch {
      throw ExportError(error)
    }
  }

  func trim(_ range: ByteRange) throws(ExportError) -> AfterReply? {
    noteWrite()
    do throws(JournalError) {
      return try disk.trim(range, durable: false).afterReply
    } catch {
      throw ExportError(error)
    }
  }

  func flush() throws(ExportError) {
    noteWrite()
    do throws(JournalError) { try disk.flush() } catch { throw ExportError(error) }
  }

  func didAcknowledge(nanoseconds: UInt64) { disk.noteAcknowledgement(nanoseconds: nanoseconds) }

  func cache(_ range: ByteRange) { disk.warm(range) }

  /// `base:allocation` is all that there is.
  func blockStatus(_ range: ByteRange, context: String, limit: Int) throws(ExportError) -> [BlockExtent] {
    do throws(JournalError) {
      return try disk.status(range, asWriter: true, limit: limit).map { BlockExtent($0) }
    } catch {
      throw ExportError(error)
    }
  }

  func close(cleanly: Bool) {
    disk.forgetReader(owner)
    if lock.withLock({ hasWritten }) { streams.end(disk, cleanly: cleanly) }
  }
}

/// The payload of one write on its way into the journal.
private final class Reservation: WriteReservation {
  private let slot: WriteSlot

  init(_ slot: WriteSlot) { self.slot = slot }

  // SAFETY: passes on the slot's promise: valid until commit or abandon.
  @unsafe var memory: UnsafeMutableRawBufferPointer { unsafe slot.memory }

  func commit() throws(ExportError) -> AfterReply? {
    do throws(JournalError) { return try slot.commit(durable: false).afterReply } catch {
      throw ExportError(error)
    }
  }

  func payloadIsLate(received: Int, since: UInt64) throws(ExportError) {
    do throws(JournalError) { try slot.payloadIsLate(received: received, since: since) } catch {
      throw ExportError(error)
    }
  }

  func abandon() { slot.abandon() }
}

/// A connection that reads a disk while it arrives.
private final class ViewSession: ExportSession {
  private let disk: Disk
  private let journal: Journal
  private let rules: ViewRules
  private let log: JournalLog
  private let owner: UInt64

  init(_ disk: Disk, _ journal: Journal, _ rules: ViewRules, _ log: @escaping JournalLog) {
    self.disk = disk
    self.journal = journal
    self.rules = rules
    self.log = log
    owner = disk.newOwner()
  }

  func read(
    _ range: ByteRange, into target: inout MutableRawSpan, since: UInt64, isRetry: Bool,
    mayBlock: Bool, waiter: () -> ReadWaiter
  ) throws(ExportError) -> ReadOutcome {
    let timeout = ExportError(.inputOutput, disk.timeoutMessage)
    do throws(JournalError) {
      let read = try disk.readView(
        range, into: &target, since: since, isRetry: isRetry, owner: owner, mayBlock: mayBlock
      ) {
        let waiter = waiter()
        return { reason in
          switch reason {
          case .retry: waiter.wake(.retry)
          case .timedOut: waiter.wake(.failed(timeout))
          }
        }
      }
      switch read {
      case .served(let runs): return .served(runs.map { ReadPiece($0) })
      case .parked: return .parked
      case .blocks: return .blocks
      }
    } catch {
      throw ExportError(error)
    }
  }

  func reserve(_ range: ByteRange) throws(ExportError) -> any WriteReservation { throw Self.readOnly }

  func writeZeroes(_ range: ByteRange, mayTrim: Bool) throws(ExportError) -> AfterReply? {
    throw Self.readOnly
  }

  /// The reader needs `range` no more.
  func trim(_ range: ByteRange) throws(ExportError) -> AfterReply? {
    guard rules.allowRelease else { throw Self.readOnly }
    do throws(JournalError) { return try disk.release(range).afterReply } catch { throw ExportError(error) }
  }

  func didAnswerRead(_ range: ByteRange) {
    guard rules.isReadOnce else { return }
    do throws(JournalError) {
      try disk.release(range).wake()
    } catch {
      log(.debug, "bytes \(range.start) to \(range.end) of \(disk.name) were read and stay: \(error.message)")
    }
  }

  /// A reader has nothing to make durable but its releases.
  func flush() throws(ExportError) {
    guard rules.allowRelease else { return }
    do throws(JournalError) { try disk.flush() } catch { throw ExportError(error) }
  }

  func cache(_ range: ByteRange) { disk.warm(range) }

  func blockStatus(_ range: ByteRange, context: String, limit: Int) throws(ExportError) -> [BlockExtent] {
    do throws(JournalError) {
      return try ViewContext(context).extents(of: disk, in: journal, range, limit: limit)
    } catch {
      throw ExportError(error)
    }
  }

  func close(cleanly: Bool) { disk.dropParked(owner: owner) }

  private static let readOnly = ExportError(.notPermitted, "a view takes no writes")
}

extension ReadPiece {
  fileprivate init(_ run: ReadRun) { self.init(range: run.range, isHole: run.isZero) }
}

extension Arrivals {
  /// The wake-up calls to make when the reply is out; nil when nobody waits.
  fileprivate var afterReply: AfterReply? {
    guard !isEmpty else { return nil }
    return { wake() }
  }
}

extension ExportError {
  /// The one place where a journal's failure becomes an NBD error. (The journal has logged what it could not do.)
  init(_ error: JournalError) {
    switch error.kind {
    case .noSpace: self.init(.noSpace, error.message)
    case .usage: self.init(.invalid, error.message)
    case .notPermitted: self.init(.notPermitted, error.message)
    case .closing: self.init(.shutdown, error.message)
    case .failed, .damaged, .inUse: self.init(.inputOutput, error.message)
    }
  }
}
